"""Random projections of per-instance gradients to a few numbers, P g with independent entries of variance 1/D.

Products of projections are unbiased: E (Pu)·(Pv) = u·v, with variance ((u·v)² + |u|²|v|²) / D for Gaussian entries
and 2 Σ u_k² v_k² / D less for signs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from influx.engines.gradients import GradientsAt, Rows
from influx.problem import Split
from influx.streams import stream_seed

Kind = Literal["gaussian", "rademacher"]
PIECE = 1 << 20  # entries drawn with one seed: part of what P is
HELD_BYTES = 512 << 20  # of P that is kept; the rest is drawn anew for every block of instances
WRITTEN_BYTES = 256 << 20  # gradients of one block of instances, written out


@dataclass
class Projector:
    """P (D, p) over parameters in the order of ``Rows.flat``; never whole in memory unless it is small.

    The same ``seed``, ``dim``, ``kind`` and ``size`` p give the same P on the same kind of device, whatever the
    blocks of instances and the precision. It is drawn in pieces of some columns, each with a seed of its own.
    """

    dim: int
    kind: Kind
    seed: int
    size: int
    _held: dict[int, Tensor] = field(default_factory=dict, init=False)
    _last: tuple[int, Tensor] | None = field(default=None, init=False)  # the piece drawn last

    @property
    def _width(self) -> int:
        """Columns of a piece."""
        return max(PIECE // self.dim, 1)

    def project(self, rows: Rows) -> Tensor:
        """``(b, D)`` projections, at least in float32."""
        total, offset = None, 0
        for layer in rows.layers:
            written = layer.flat()  # (b, p of the layer)
            while written.shape[1]:
                number, start = divmod(offset, self._width)
                piece = self._piece(number, written)[start:][: written.shape[1]]  # (columns, D)
                product = written[:, : len(piece)] @ piece
                wide = product.float() if product.itemsize < 4 else product
                total = wide if total is None else total.add_(wide)
                offset, written = offset + len(piece), written[:, len(piece) :]
        assert total is not None and offset == self.size
        return total.mul_(self.dim**-0.5)

    def _piece(self, number: int, like: Tensor) -> Tensor:
        """Columns ``number * width ...`` of √D P, transposed."""
        if number in self._held:
            return self._held[number]
        if self._last is None or self._last[0] != number:
            self._last = number, self._draw(number, like)
        piece = self._last[1]
        if (len(self._held) + 1) * piece.nbytes <= HELD_BYTES:
            self._held[number] = piece
        return piece

    def _draw(self, number: int, like: Tensor) -> Tensor:
        own = torch.Generator(like.device).manual_seed(stream_seed(self.seed, str(number)))
        columns = min(self._width, self.size - number * self._width)
        drawn = torch.empty(columns, self.dim, dtype=torch.float32, device=like.device)
        if self.kind == "gaussian":
            return drawn.normal_(generator=own).to(like.dtype)
        return drawn.random_(2, generator=own).mul_(2).sub_(1).to(like.dtype)


def projected(at: GradientsAt, split: Split, projector: Projector) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Projections of a split block by block: rows, ``(b, D)`` projections, ``(b,)`` exact squared norms."""
    for part, rows in at.blocks(split, projected_size(at, split)):
        yield part, projector.project(rows), rows.squares()


def projected_size(at: GradientsAt, split: Split) -> int:
    """Instances per block of ``projected``."""
    element = next(iter(at.parameters.values())).element_size()
    return max(min(at.block_size(split), WRITTEN_BYTES // (element * at.size)), 1)
