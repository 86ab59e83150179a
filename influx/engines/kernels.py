"""Ways to compare the gradients of training and test instances at one checkpoint, block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from influx.engines.gradients import GradientsAt, Rows
from influx.engines.projections import Whole, projected
from influx.engines.stored import Part, Projections
from influx.problem import Checkpoint, Split

Unit = Literal["tensor", "module"]
ROUNDING = 2  # times the precision, relative to the whole gradient: a smaller part may be zero


class Block(NamedTuple):
    """Similarities ``(b, m)`` of some rows and columns, of the rows to themselves ``(b,)``, and what to know of them.

    ``variance`` (b, m) is that of ``values``, where they are random. ``vanished`` counts zero gradients.
    """

    rows: slice
    columns: slice
    values: Tensor
    own: Tensor
    vanished: int
    variance: Tensor | None = None


class Kernel(Protocol):
    """Compares two splits at one checkpoint; every pair is in one block."""

    def __call__(self, at: GradientsAt, checkpoint: Checkpoint, left: Split, right: Split) -> Iterator[Block]:
        """Blocks, in any order."""
        ...

    def step(self, at: GradientsAt, left: Split) -> int:
        """Rows that are computed together: a part of ``left`` that begins at a multiple has the bits of the whole."""
        ...


@dataclass(frozen=True)
class Dots:
    """⟨g_i, g_j⟩; with ``cosine`` divided by |g_i| |g_j|, 0 where a gradient is."""

    cosine: bool

    def __call__(self, at: GradientsAt, checkpoint: Checkpoint, left: Split, right: Split) -> Iterator[Block]:
        """Of whole gradients."""
        for rows, columns, dots, mine, theirs in at.dots(left, right):
            values, own = _wide(dots), mine
            if self.cosine:
                values = values * inverse_norm(mine)[:, None] * inverse_norm(theirs)[None, :]
                own = (mine > 0).float()
            yield Block(rows, columns, values, own, int((mine == 0).sum()))

    def step(self, at: GradientsAt, left: Split) -> int:
        """Instances whose gradients are written out together."""
        return at.together(left)


products, cosines = Dots(cosine=False), Dots(cosine=True)


@dataclass(frozen=True)
class LayerCosines:
    """Cosines of parts of the gradients, summed or averaged over the parts: parameter tensors or modules.

    A part that is zero but for rounding (a bias before a norm that subtracts means) counts as zero: its direction is
    noise.
    """

    unit: Unit
    average: bool

    def __call__(self, at: GradientsAt, checkpoint: Checkpoint, left: Split, right: Split) -> Iterator[Block]:
        """One block of products for each part, never all at once."""
        units = [name if self.unit == "tensor" else name.rpartition(".")[0] for name in at.parameters]
        count = len(set(units))
        factor = 1 / count if self.average else 1.0
        for columns, theirs in at.blocks(right, at.held_size(right)):
            right_inverse = {unit: inverse_norm(squares) for unit, squares in _squares(theirs, units).items()}
            for rows, mine in at.blocks(left):
                squares = _squares(mine, units)
                values = None
                for unit, dots in _dots(mine, theirs, units):
                    dots *= inverse_norm(squares[unit])[:, None] * right_inverse[unit][None, :]
                    values = dots if values is None else values.add_(dots)
                assert values is not None
                present = torch.stack([(s > 0).float() for s in squares.values()]).sum(0)
                vanished = count * len(present) - int(present.sum())
                yield Block(rows, columns, values * factor, present * factor, vanished)

    def step(self, at: GradientsAt, left: Split) -> int:
        """A block of instances."""
        return at.block_size(left)


def _squares(rows: Rows, units: list[str]) -> dict[str, Tensor]:
    """Squared norms of each unit, 0 where they are rounding errors of the whole."""
    found: dict[str, Tensor] = {}
    precision = 0.0
    for unit, part in zip(units, rows.tensors(), strict=True):
        squares = part.squares()
        precision = torch.finfo(squares.dtype).eps
        found[unit] = found[unit] + _wide(squares) if unit in found else _wide(squares)
    least = (ROUNDING * precision) ** 2 * torch.stack([*found.values()]).sum(0)
    return {unit: torch.where(squares > least, squares, 0) for unit, squares in found.items()}


def _dots(mine: Rows, theirs: Rows, units: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Products of each unit; the tensors of a unit follow each other."""
    unit, total = "", None
    for name, left, right in zip(units, mine.tensors(), theirs.tensors(), strict=True):
        dots = _wide(left.dot(right))
        if total is not None and name == unit:
            total += dots
            continue
        if total is not None:
            yield unit, total
        unit, total = name, dots
    assert total is not None
    yield unit, total


@dataclass(frozen=True)
class Stored(ABC):
    """Reads projections of the training split, which ``keep`` lets be stored; ``at_step`` has those at a checkpoint.

    ``part`` says which rows of the training split are on the left; None means all where these are it.
    """

    at_step: Callable[[Checkpoint], Projections]
    example: Checkpoint
    keep: bool
    part: slice | None = None

    @abstractmethod
    def __call__(self, at: GradientsAt, checkpoint: Checkpoint, left: Split, right: Split) -> Iterator[Block]:
        """Blocks in which test instances are whole."""

    def step(self, at: GradientsAt, left: Split) -> int:
        """A block of instances that are projected."""
        return replace(self.at_step(self.example), open=lambda: at).block

    def blocks(self, projections: Projections, left: Split) -> Iterator[Part]:
        """Of the left side, read or computed."""
        part = slice(0, len(left)) if left is projections.train else self.part
        return projections.blocks(left, part if self.keep else None)


@dataclass(frozen=True)
class Projected(Stored):
    """(Pg_i)·(Pg_j) with a random P (D, p) for each checkpoint; ``at_step`` has the projected margin gradients."""

    def __call__(self, at: GradientsAt, checkpoint: Checkpoint, left: Split, right: Split) -> Iterator[Block]:
        """Test instances are projected once and held; an instance's product with itself needs no projection.

        The variance is ((g_i·g_j)² + |g_i|²|g_j|²) / D, estimated without bias for Gaussian P from the norms and the
        projected product; for signs it is too large by 2 Σ g_ik² g_jk² / D.
        """
        projections = replace(self.at_step(checkpoint), open=lambda: at)
        projection, columns = projections.projection, slice(0, len(right))
        parts = [(z, squares) for _, z, squares in projected(at, right, projection)]
        theirs, right_squares = (torch.cat(column) for column in zip(*parts, strict=True))
        for part in self.blocks(projections, left):
            mine = part.projections * -part.slopes[:, None].to(part.projections)  # of the risk: ∇L = -slope ∇margin
            squares = (part.squares * part.slopes.square()).to(right_squares)
            values = mine @ theirs.T
            variance = torch.outer(squares, right_squares).add_(values.square()).div_(projection.dim + 1)
            if isinstance(projection, Whole):
                variance.zero_()
            yield Block(part.rows, columns, values, squares, int((squares == 0).sum()), variance)


@dataclass(frozen=True)
class UpdateCosines(Stored):
    """cos(Pg_j, PΓ_i), where Γ_i is the optimizer's update if g_i were the batch's gradient; 0 where one is zero.

    ``at_step`` has the projected updates at a checkpoint, with their exact cosines with the gradients beside them.
    """

    def __call__(self, at: GradientsAt, checkpoint: Checkpoint, left: Split, right: Split) -> Iterator[Block]:
        """Test gradients are projected once and held."""
        projections = replace(self.at_step(checkpoint), open=lambda: at)
        found = [z for _, z, _ in projected(at, right, projections.projection)]
        theirs = _unit(torch.cat(found))
        for part in self.blocks(projections, left):
            values = _unit(part.projections) @ theirs.T
            vanished = int((part.squares == 0).sum())
            yield Block(part.rows, slice(0, len(right)), values, part.slopes, vanished)


def _unit(rows: Tensor) -> Tensor:
    """Rows divided by their lengths."""
    return rows * inverse_norm(rows.square().sum(1))[:, None]


def inverse_norm(squares: Tensor) -> Tensor:
    """1 / norm, and 0 for zero."""
    wide = _wide(squares)
    return torch.where(wide > 0, wide.rsqrt(), 0)


def _wide(values: Tensor) -> Tensor:
    """At least single precision."""
    return values.float() if values.itemsize < 4 else values
