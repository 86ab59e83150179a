"""Per-instance gradients of one or two parameters, kept as the factors that they are made of or written out."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from influx.engines import factors
from influx.engines.factors import OneHot, Side, Term
from influx.learners.torch.costs import Way, cheaper


class LayerRows(Protocol):
    """Gradients of ``b`` instances with respect to one layer's parameters."""

    def dot(self, other: LayerRows) -> Tensor:
        """All dot products with another block of the same layer, ``(b, m)``."""
        ...

    def squares(self) -> Tensor:
        """Squared norms, ``(b,)``."""
        ...

    def flat(self) -> Tensor:
        """The gradients written out, ``(b, p)``, in the order of the layer's parameters."""
        ...

    def tensors(self) -> list[LayerRows]:
        """The same for each parameter alone, in the order of the layer's parameters."""
        ...


@dataclass(frozen=True)
class Flat:
    """Gradients written out, ``(b, p)``; ``sizes`` are those of the parameters (one when empty)."""

    rows: Tensor
    sizes: tuple[int, ...] = ()

    def dot(self, other: LayerRows) -> Tensor:
        """One product of matrices."""
        return self.rows @ other.flat().T

    def squares(self) -> Tensor:
        """Row sums of squares."""
        return self.rows.square().sum(1)

    def flat(self) -> Tensor:
        """Themselves."""
        return self.rows

    def tensors(self) -> list[LayerRows]:
        """Columns of each parameter."""
        return [Flat(part) for part in self.rows.split(self.sizes, 1)] if self.sizes else [self]


@dataclass
class Weighted:
    """A weight of ``b`` instances, and the bias added wherever it is used if ``bias``: sums over uses.

    Products include those between different uses.
    """

    b: int
    terms: list[Term]
    bias: bool
    made: list[Tensor] = field(default_factory=list)  # the weight's gradients in blocks, once written out

    def dot(self, other: LayerRows) -> Tensor:
        """By factors or written out, whichever costs less."""
        if isinstance(other, Weighted) and self.way(self.b, other.b) == "factors":
            pairs = [(mine, theirs) for mine in self._sides for theirs in other._sides]
            return _total([factors.dots(mine, theirs, other.b, self._ones) for mine, theirs in pairs])
        if not isinstance(other, Weighted) or self.bias != other.bias:
            return self.flat() @ other.flat().T
        return multiplied(self.blocks, other.blocks)

    def squares(self) -> Tensor:
        """Squared norms, by factors when that is cheaper than to write out what is not yet."""
        length, inner = self._extent or (1, 0)
        if self.made or not self._extent or (length > 1 and length * inner >= self._numel):
            return lengths(self.blocks)
        if length == 1 and not any(isinstance(side, OneHot) for side in self._sides[0]):
            return factors.norms(self._sides[0], self._ones)
        return _total([factors.squares(one, other, self._ones) for one in self._sides for other in self._sides])

    def flat(self) -> Tensor:
        """Weight gradient row by row, then the bias gradient."""
        return torch.cat([self.terms[0].ordered(self._written), *self._biases], 1)

    def tensors(self) -> list[LayerRows]:
        """Weight by its factors, bias written out."""
        return [Weighted(self.b, self.terms, False, self.made), Flat(self._biases[0])] if self.bias else [self]

    @property
    def blocks(self) -> list[Tensor]:
        """Written out, in blocks ``(b, p)`` whose order depends on the parameters alone."""
        return [*self._written, *self._biases]

    def write(self, into: list[Tensor]) -> None:
        """Leave ``blocks`` in these tensors."""
        if not self.made and len(self.terms) == 1:
            self.made.extend(self.terms[0].written(into))
        for found, wanted in zip(self.blocks, into, strict=True):
            if found.data_ptr() != wanted.data_ptr():
                wanted.copy_(found)

    def way(self, left: int, right: int) -> Way:
        """The faster way to the products of so many instances."""
        if self._extent is None:
            return "written"
        length, inner = self._extent
        return cheaper(length, self._numel, 1, left, right, inner=inner)

    @cached_property
    def _extent(self) -> tuple[int, int] | None:
        """Positions of all uses together, multiply-adds per pair of them."""
        extents = [term.extent for term in self.terms if term.extent is not None]
        if len(extents) < len(self.terms):
            return None
        return sum(length for length, _ in extents), max(inner for _, inner in extents)

    @cached_property
    def _numel(self) -> int:
        return self.terms[0].numel

    @cached_property
    def _sides(self) -> list[tuple[Side, Side]]:
        return [term.sides() for term in self.terms]

    @property
    def _ones(self) -> int | None:
        """The side of the inputs, where a bias adds a dimension."""
        return self.terms[0].inputs_side if self.bias else None

    @property
    def _written(self) -> list[Tensor]:
        if not self.made:
            blocks = [term.written() for term in self.terms]
            self.made.extend(_total(list(parts)) for parts in zip(*blocks, strict=True))
        return self.made

    @cached_property
    def _biases(self) -> list[Tensor]:
        """``(b, d)``, of no bias none."""
        return [_total([term.summed() for term in self.terms])] if self.bias else []


def multiplied(mine: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """``(b, m)`` sum of products of blocks ``(b, p)`` and ``(m, p)``; processors prefer wide results to tall ones."""
    if len(mine[0]) > len(theirs[0]):
        return multiplied(theirs, mine).T
    products = mine[0] @ theirs[0].T
    for left, right in zip(mine[1:], theirs[1:], strict=True):
        products.addmm_(left, right.T)
    return products


def lengths(blocks: list[Tensor]) -> Tensor:
    """``(b,)`` squared norms of rows that are in blocks ``(b, p)``."""
    return _total([torch.linalg.vector_norm(rows, dim=1).square() for rows in blocks])


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
