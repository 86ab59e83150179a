"""Sums of outer products ``Σ_s r_s c_sᵀ`` over the positions s of an instance, kept as their two sides.

The gradient of a weight that multiplies ``L`` positions per instance (1 for a table, tokens of a sequence, pixels of
a feature map) is such a sum, of output gradients and inputs. Dot products of two sums need only products of sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PIECE_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}  # products of positions at a time: on a processor, within its cache


@dataclass(frozen=True)
class Dense:
    """Vectors ``(b, L, d)``."""

    vectors: Tensor

    @property
    def width(self) -> int:
        """Multiplications per product."""
        return self.vectors.shape[2]

    def split(self, size: int) -> Iterator[Side]:
        """Pieces of so many instances."""
        return map(Dense, self.vectors.split(size))

    def products(self, other: Side) -> Tensor:
        """``(b L, m L')`` products of all positions of all instances."""
        mine = self.vectors.flatten(0, 1)
        return mine[:, other.index.flatten()] if isinstance(other, OneHot) else mine @ other.vectors.flatten(0, 1).T

    def within(self, other: Side) -> Tensor:
        """``(b, L, L')`` products of positions of the same instance."""
        if isinstance(other, OneHot):
            return self.vectors.gather(2, other.index[:, None, :].expand(-1, self.vectors.shape[1], -1))
        return torch.bmm(self.vectors, other.vectors.transpose(1, 2))


@dataclass(frozen=True)
class OneHot:
    """Unit vectors of length ``size`` by the positions ``(b, L)`` of their ones."""

    index: Tensor
    size: int
    width = 1

    def split(self, size: int) -> Iterator[Side]:
        """Pieces of so many instances."""
        return (OneHot(index, self.size) for index in self.index.split(size))

    def products(self, other: Side) -> Tensor:
        """``(b L, m L')`` products of all positions of all instances."""
        mine = self.index.flatten()
        if isinstance(other, OneHot):
            return mine[:, None] == other.index.flatten()
        return other.vectors.flatten(0, 1).T[mine]

    def within(self, other: Side) -> Tensor:
        """``(b, L, L')`` products of positions of the same instance."""
        if isinstance(other, OneHot):
            return self.index[:, :, None] == other.index[:, None, :]
        return other.within(self).transpose(1, 2)


Side = Dense | OneHot


class Term(Protocol):
    """What one use of a weight, and of the bias added to it, contributes to their gradients in ``b`` instances."""

    @property
    def extent(self) -> tuple[int, int] | None:
        """Positions per instance and multiply-adds per pair of them; None when it is no sum of outer products."""
        ...

    @property
    def numel(self) -> int:
        """Numbers in the weight."""
        ...

    @property
    def inputs_side(self) -> int:
        """0 when the inputs are the rows of the weight, 1 when they are its columns."""
        ...

    def sides(self) -> tuple[Side, Side]:
        """Rows and columns of the weight gradient's outer products."""
        ...

    def written(self, into: list[Tensor] | None = None) -> list[Tensor]:
        """Weight gradients written out: blocks ``(b, p)`` of them, in an order that depends on the weight alone.

        ``into`` may hold them, before others: not every term makes use of that.
        """
        ...

    def ordered(self, written: list[Tensor]) -> Tensor:
        """``(b, p)`` such gradients in the order of the weight."""
        ...

    def summed(self) -> Tensor:
        """``(b, d)`` bias gradients."""
        ...


@dataclass(frozen=True)
class Product:
    """Of inputs and a matrix: inputs ``(b, L, d_in)`` or tokens, output gradients ``(b, L, d_out)``.

    The matrix is ``(d_out, d_in)``, or ``(d_in, d_out)`` when ``inputs_first``.
    """

    inputs: Side
    gradients: Dense
    inputs_first: bool = False

    @property
    def extent(self) -> tuple[int, int]:
        """Positions per instance, multiply-adds per pair of them."""
        return positions(self.gradients), self.inputs.width + self.gradients.width

    @property
    def numel(self) -> int:
        """Numbers in the matrix."""
        size = self.inputs.size if isinstance(self.inputs, OneHot) else self.inputs.width
        return size * self.gradients.width

    @property
    def inputs_side(self) -> int:
        """Where the inputs are."""
        return 0 if self.inputs_first else 1

    def sides(self) -> tuple[Side, Side]:
        """Of the matrix, in its order."""
        return (self.inputs, self.gradients) if self.inputs_first else (self.gradients, self.inputs)

    def ordered(self, written: list[Tensor]) -> Tensor:
        """They are."""
        return written[0]

    def written(self, into: list[Tensor] | None = None) -> list[Tensor]:
        """One product of matrices per instance, or a sum per token."""
        rows, columns = self.sides()
        if isinstance(rows, Dense) and isinstance(columns, Dense):
            shape = (len(rows.vectors), rows.width, columns.width)
            out = into[0].view(shape) if into else columns.vectors.new_empty(shape)
            return [torch.bmm(rows.vectors.transpose(1, 2), columns.vectors, out=out).flatten(1)]
        assert isinstance(rows, OneHot) and isinstance(columns, Dense)
        b, _, width = columns.vectors.shape
        found = columns.vectors.new_zeros(b * rows.size, width)
        first = torch.arange(b, device=found.device)[:, None] * rows.size
        found.index_add_(0, (rows.index + first).flatten(), columns.vectors.flatten(0, 1))
        return [found.view(b, -1)]

    def summed(self) -> Tensor:
        """Output gradients over positions."""
        return self.gradients.vectors.sum(1)


def merged(terms: list[Term]) -> list[Term]:
    """Uses of one weight, with products of dense inputs in one as if they were positions of one use."""
    for first in (False, True):
        alike = [t for t in terms if isinstance(t, Product) and isinstance(t.inputs, Dense) and t.inputs_first is first]
        if len(alike) > 1:
            inputs = torch.cat([t.inputs.vectors for t in alike if isinstance(t.inputs, Dense)], 1)
            gradients = torch.cat([t.gradients.vectors for t in alike], 1)
            others = [t for t in terms if all(t is not own for own in alike)]
            terms = [Product(Dense(inputs), Dense(gradients), first), *others]
    return terms


def positions(side: Side) -> int:
    """``L``."""
    return (side.vectors if isinstance(side, Dense) else side.index).shape[1]


def dots(mine: tuple[Side, Side], theirs: tuple[Side, Side], m: int, ones: int | None) -> Tensor:
    """``(b, m)`` dot products of sums; with ``ones`` that side has one more dimension, which is 1 everywhere."""
    own, other = positions(mine[0]), positions(theirs[0])
    values = next(side.vectors for side in (*mine, *theirs) if isinstance(side, Dense))
    budget = PIECE_BYTES.get(values.device.type, 1 << 62)
    size = max(budget // (values.element_size() * own * other * m), 1)
    rows, columns = (list(side.split(size)) for side in mine)
    found = []
    for row, column in zip(rows, columns, strict=True):
        pair = [row.products(theirs[0]), column.products(theirs[1])]
        if ones is not None:
            pair[ones] += 1
        found.append(_summed(pair[0], pair[1], own, other))
    return torch.cat(found) if len(found) > 1 else found[0]


def _summed(rows: Tensor, columns: Tensor, own: int, other: int) -> Tensor:
    """Products of the two sides' products ``(b L, m L')``, summed over positions."""
    first, second = (columns, rows) if rows.dtype == torch.bool else (rows, columns)
    product = first.mul_(second)
    if own == other == 1:
        return product
    product = product.view(-1, own, product.shape[1]).sum(1) if own > 1 else product
    return product.view(len(product), -1, other).sum(2)


def norms(one: tuple[Side, Side], ones: int | None) -> Tensor:
    """``(b,)`` squared norms of single outer products of dense vectors."""
    found = [side.vectors[:, 0].square().sum(1) for side in one if isinstance(side, Dense)]
    if ones is not None:
        found[ones] += 1
    return found[0] * found[1]


def squares(one: tuple[Side, Side], other: tuple[Side, Side], ones: int | None) -> Tensor:
    """``(b,)`` dot products of two sums of the same instance."""
    pair = [one[0].within(other[0]), one[1].within(other[1])]
    if ones is not None:
        pair[ones] = pair[ones] + 1
    return (pair[0] * pair[1]).sum((1, 2))
