"""Random projections of per-instance gradients to a few numbers, P g with entries of variance 1/D and mean 0.

Products of projections are unbiased: E (Pu)·(Pv) = u·v. With independent Gaussian entries their variance is
((u·v)² + |u|²|v|²) / D, with signs 2 Σ u_k² v_k² / D less. Cheaper ones are in ``sketches``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol

import torch
from torch import Tensor

from influx import interrupts
from influx.engines.columns import columns, gathered
from influx.engines.entries import entries
from influx.engines.gradients import GradientsAt, OutputGradient
from influx.engines.rows import Rows
from influx.engines.sketches import Sparse, TwoSided
from influx.learners.torch.loading import loaded
from influx.problem import Split
from influx.streams import stream_seed

Kind = Literal["gaussian", "rademacher", "sparse", "two_sided", "none"]
PIECE = 1 << 21  # entries drawn with one seed: part of what P is
HELD = 1 << 23  # entries: P is kept if it has no more; otherwise it is drawn anew for every block of instances
WRITTEN_BYTES = 32 << 20  # gradients of one block of instances, written out
DRAWN_BYTES = 256 << 20  # the same where P is drawn anew for every block
MOST = 4096  # instances in a block
COPIES = 6  # of gradients while they are changed


class Projection(Protocol):
    """A linear map of gradients to ``dim`` numbers; the same settings give the same map for every split."""

    @property
    def dim(self) -> int:
        """Numbers that a gradient becomes."""
        ...

    @property
    def writes(self) -> int:
        """Bytes of gradients that may be written out on the way; 0 where none are."""
        ...

    def project(self, rows: Rows) -> Tensor:
        """``(b, dim)``, at least in float32."""
        ...


Maker = Callable[[GradientsAt], Projection]  # for gradients with so many parameters


class Change(Protocol):
    """Something else than gradients, made of them before they are projected."""

    numbers: Tensor  # (b,) one for each instance of the last call

    def __call__(self, rows: Rows) -> Rows:
        """Of a block of instances."""
        ...


@dataclass
class Projector:
    """P (D, p) over parameters in the order of ``Rows.flat``; never whole in memory unless it is small.

    The same ``seed``, ``dim``, ``kind`` and ``size`` p give the same P on the same kind of device, whatever the
    blocks of instances and the precision. It is drawn in pieces of some columns, each with a seed of its own.
    """

    dim: int
    kind: Literal["gaussian", "rademacher"]
    seed: int
    size: int
    _held: dict[int, Tensor] = field(default_factory=dict, init=False)
    _last: tuple[int, Tensor] | None = field(default=None, init=False)  # the piece drawn last

    @property
    def writes(self) -> int:
        """More where drawing P costs as much as multiplying by it."""
        return WRITTEN_BYTES if self._keeps else DRAWN_BYTES

    @property
    def _keeps(self) -> bool:
        return self.dim * self.size <= HELD

    @property
    def _width(self) -> int:
        """Columns of a piece."""
        return max(PIECE // self.dim, 1)

    def project(self, rows: Rows) -> Tensor:
        """``(b, D)`` projections, at least in float32."""
        total, offset = None, 0
        for _, _, written in columns(rows):
            if total is None:
                wide = torch.promote_types(written.dtype, torch.float32)
                total = written.new_zeros(len(written), self.dim, dtype=wide)
            while written.shape[1]:
                number, start = divmod(offset, self._width)
                piece = self._piece(number, written)[start:][: written.shape[1]]  # (columns, D)
                own, written = written[:, : len(piece)], written[:, len(piece) :]
                if own.dtype == total.dtype:
                    total.addmm_(own, piece)
                else:
                    total += own @ piece
                offset += len(piece)
        assert total is not None and offset == self.size
        return total.mul_(self.dim**-0.5)

    def _piece(self, number: int, like: Tensor) -> Tensor:
        """Columns ``number * width ...`` of √D P, transposed."""
        if number in self._held:
            return self._held[number]
        if self._last is None or self._last[0] != number:
            interrupts.check()
            self._last = number, self._draw(number, like)
        if self._keeps:
            self._held[number] = self._last[1]
        return self._last[1]

    def _draw(self, number: int, like: Tensor) -> Tensor:
        count = min(self._width, self.size - number * self._width)
        return entries(self.kind, stream_seed(self.seed, str(number)), count, self.dim, like.device).to(like.dtype)


@dataclass(frozen=True)
class Whole:
    """Gradients as they are."""

    dim: int

    @property
    def writes(self) -> int:
        """A block of some megabytes."""
        return WRITTEN_BYTES

    def project(self, rows: Rows) -> Tensor:
        """``(b, p)``."""
        flat = rows.flat()
        return flat.float() if flat.itemsize < 4 else flat


def maker(kind: Kind, dim: int, seed: int) -> Maker:
    """Makes the projection for gradients at hand; ``none`` keeps all their numbers."""
    if kind == "none":
        return lambda at: Whole(at.size)
    if kind == "sparse":
        return lambda at: Sparse(min(dim, at.size), seed, at.size)  # more sums would stay empty
    if kind == "two_sided":
        return lambda at: TwoSided(dim, seed)
    return lambda at: Projector(dim, kind, seed, at.size)


def projected(
    at: GradientsAt,
    split: Split,
    projection: Projection,
    output_gradient: OutputGradient | None = None,
    change: Change | None = None,
    norms: bool = True,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Projections of a split block by block: rows, ``(b, D)`` projections, ``(b,)`` exact squared norms.

    Of gradients of the risk, or of another function of the outputs, or of what ``change`` makes of them. Without
    ``norms`` squared norms are those of the projections.
    """
    size = block_of(at, split, projection, change)
    step = min(at.block_size(split), size)  # that are computed together
    blocks = (at.rows(x, y, output_gradient) for _, (x, y) in loaded(split, step, at.tensors))
    for start in range(0, len(split), size):
        part = slice(start, min(start + size, len(split)))
        count = part.stop - start
        rows, squares = gathered(islice(blocks, -(-count // step)), count, norms and change is None)
        if change is not None:
            rows = change(rows)
            squares = rows.squares() if norms else None
        found = projection.project(rows)
        del rows  # before the next block is made
        yield part, found, found.square().sum(1) if squares is None else squares


def block_of(at: GradientsAt, split: Split, projection: Projection, change: Change | None = None) -> int:
    """Instances per block of ``projected``; with dense P several of ``at``'s blocks."""
    block, element = at.block_size(split), next(iter(at.parameters.values())).element_size()
    if change is not None:
        return max(min(block, WRITTEN_BYTES // (COPIES * element * at.size)), 1)
    if not projection.writes:
        return block
    kept = at.size if isinstance(projection, Whole) else at.numbers(split)[2]
    fitting = max(projection.writes // (element * max(kept, 1)), 1)
    if not isinstance(projection, Projector):
        return min(block, fitting)
    most = min(fitting, MOST)
    return most // min(block, most) * min(block, most)


def projection_flops(kind: Kind, dim: int, parameters: int, sides: tuple[tuple[int, int, int], ...]) -> float:
    """Floating-point operations of one instance's projection; ``sides`` as in ``NetShape``."""
    if kind in ("gaussian", "rademacher"):
        return 2.0 * dim * parameters
    if kind == "two_sided":
        return sum(2.0 * math.sqrt(dim) * (rows + columns) + 2.0 * dim for rows, columns, _ in sides)
    return 0.0


def projection_bytes(kind: Kind, dim: int, parameters: int) -> float:
    """Memory for P where it is kept, or for gradients that are gathered before it is drawn, in single precision."""
    if kind in ("gaussian", "rademacher"):
        return 4.0 * dim * parameters if dim * parameters <= HELD else float(DRAWN_BYTES)
    return 4.0 * parameters if kind == "sparse" else 0.0
