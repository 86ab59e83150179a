"""The curvature of a weight in the eigenbasis of its Kronecker factors (EK-FAC, George et al. 2018, arXiv:1806.03884).

An instance's gradient of a weight is G = Σ_s r_s c_sᵀ over positions s: of one vector for a table, of tokens, of an
image's patches, of all uses of the weight. Eigenvectors of E Σ_s r_s r_sᵀ and of E Σ_s c_s c_sᵀ make the basis
Q_r ⊗ Q_c. The second moments of Q_rᵀ G Q_c are the eigenvalues that bring the matrix nearest to the curvature of the
layer, in the Frobenius norm, that this basis allows. A bias is one more input, which is always 1. Tokens are one-hot,
and the basis of their side is the standard one. So is that of a side with more than ``SIDE`` numbers, whose moments
would not fit in memory: its block is of the kind ``partial``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from influx.engines.blocks import OTHER_WAYS, Block, Separate, Strategy, Whole
from influx.engines.factors import Dense, OneHot, Side, positions
from influx.engines.layers import LayerRows, Weighted
from influx.errors import IncompatibleError

WHOLE = 2000  # numbers at most in a layer that is no sum of outer products for its matrix to be written out
SIDE = 8000  # numbers at most in a side with a basis of its own: half a gigabyte
PIECE_BYTES = 32 << 20  # of one layer's gradients, written out at a time


def block_for(layer: LayerRows, numbers: int, strategy: Strategy, whole: int = 0) -> Block:
    """The block of a layer with so many numbers, given gradients of a few instances.

    Weights with up to ``whole`` numbers get a matrix of their own too.
    """
    found = _sides(layer)
    if found is None or numbers <= whole:
        return Whole(numbers) if numbers <= max(whole, WHOLE) and strategy != "diagonal" else Separate(numbers)
    assert isinstance(layer, Weighted)
    turned, narrow = turnable(strategy, *found)
    ones = layer.terms[0].inputs_side if layer.bias else None
    kind = "diagonal" if not any(turned) else "kronecker" if narrow else "partial"
    return Kronecker(_shape(found), ones, turned, strategy == "kfac", kind=kind)


def turnable(strategy: Strategy, rows: Side, columns: Dense) -> tuple[tuple[bool, bool], bool]:
    """Whether each side gets a basis other than its own, and whether neither is too large for one."""
    fits = isinstance(rows, OneHot) or rows.width <= SIDE, columns.width <= SIDE
    if strategy == "diagonal":
        return (False, False), True
    return (isinstance(rows, Dense) and fits[0], fits[1]), all(fits)


def factor_numbers(layer: LayerRows) -> int:
    """Numbers in both sides of one layer's outer products, all positions together."""
    if not isinstance(layer, Weighted) or any(term.extent is None for term in layer.terms):
        return 1
    return sum(term.extent[0] * term.extent[1] for term in layer.terms if term.extent is not None)


def _sides(layer: LayerRows) -> tuple[Side, Dense] | None:
    """Rows and columns of the outer products of all uses, with the bias; None when G is no sum of these."""
    if not isinstance(layer, Weighted) or any(term.extent is None for term in layer.terms):
        return None
    pairs = [term.sides() for term in layer.terms]
    rows, columns = (_joined([pair[number] for pair in pairs]) for number in (0, 1))
    if rows is None or not isinstance(columns, Dense):
        return None
    if layer.bias and layer.terms[0].inputs_side == 1:
        columns = _with_ones(columns)
    elif layer.bias and isinstance(rows, Dense):
        rows = _with_ones(rows)
    return rows, columns


def _joined(sides: list[Side]) -> Side | None:
    """Positions of all uses; None for tokens in one and numbers in another, as of a tied embedding."""
    if len(sides) == 1:
        return sides[0]
    dense = [side.vectors for side in sides if isinstance(side, Dense)]
    tokens = [side for side in sides if isinstance(side, OneHot)]
    if dense and tokens:
        return None
    return Dense(torch.cat(dense, 1)) if dense else OneHot(torch.cat([t.index for t in tokens], 1), tokens[0].size)


def _with_ones(side: Dense) -> Dense:
    return Dense(torch.cat([side.vectors, side.vectors.new_ones(*side.vectors.shape[:2], 1)], 2))


def _shape(sides: tuple[Side, Dense]) -> tuple[int, int]:
    rows, columns = sides
    return (rows.size if isinstance(rows, OneHot) else rows.width), columns.width


@dataclass
class Kronecker:
    """A weight with the bias that goes along, ``shape`` (rows, columns).

    Attributes:
        shape: of the weight; the side of the inputs is longer by one when there is a bias.
        ones: the side with the bias, None without one.
        turned: whether a side gets a basis other than its own.
        product: eigenvalues are products of those of the two factors (K-FAC), with a second pass to no purpose.
        trace: of the layer's exact curvature.
    """

    shape: tuple[int, int]
    ones: int | None
    turned: tuple[bool, bool]
    product: bool
    trace: float = 0.0
    kind: str = "kronecker"
    _moments: list[Tensor | None] = field(default_factory=lambda: [None, None])  # (d, d), or (d,) without a basis
    _last: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # by side: vectors and their moment
    _bases: list[Tensor | None] = field(default_factory=lambda: [None, None])
    _values: Tensor | None = None
    _count: float = 0.0  # Σ w over instances and their pseudo-gradients
    _length: int = 1

    def gather(self, layer: LayerRows, weight: float, again: bool) -> None:
        """Second moments of both sides."""
        sides = self._matching(layer)
        self.trace += weight * float(layer.squares().sum())
        self._count, self._length = self._count + weight * len(sides[1].vectors), positions(sides[1])
        for number, side in enumerate(sides):
            if self.turned[number] or self.product:
                found, known = self._moment(number, side, again), self._moments[number]
                self._moments[number] = found * weight if known is None else known.add_(found, alpha=weight)

    def _moment(self, number: int, side: Side, again: bool) -> Tensor:
        """Inputs stay the same when output gradients change: their moment is computed once."""
        if isinstance(side, OneHot):
            return torch.bincount(side.index.flatten(), minlength=side.size).double()
        if not self.turned[number]:
            return side.vectors.flatten(0, 1).square().sum(0)
        if not again or number not in self._last or not torch.equal(self._last[number][0], side.vectors):
            flat = side.vectors.flatten(0, 1)
            self._last[number] = side.vectors, flat.T @ flat
        return self._last[number][1]

    def turn(self) -> None:
        """Eigenvectors of both moments."""
        own = []
        self._last = {}
        for number, moment in enumerate(self._moments):
            self._moments[number] = None
            if moment is not None and moment.ndim == 2:
                moment, self._bases[number] = torch.linalg.eigh(moment)  # reads one triangle
            own.append(moment)
        if self.product and own[0] is not None and own[1] is not None:
            # inputs independent of output gradients, and these uncorrelated between positions: Grosse & Martens 2016
            both = torch.outer(own[0].clamp_min(0), own[1].clamp_min(0))
            self._values = both / (self._count * self._length)

    def measure(self, layer: LayerRows, weight: float) -> None:
        """Second moments of the gradients in the basis."""
        if self.product:
            return
        rows, columns = self._matching(layer)
        if self._values is None:
            self._values = columns.vectors.new_zeros(self.shape)
        if isinstance(rows, OneHot):
            where, sums = self._by_token(rows, columns)
            self._values.index_add_(0, where % rows.size, sums.square_(), alpha=weight)
        elif positions(rows) == 1:
            left, right = self._squares(rows, columns)
            self._values.addmm_(left.T, right, alpha=weight)
        else:
            for written in self._written(rows, columns):
                self._values.add_(written.square_().sum(0), alpha=weight)

    def weighed(self, layer: LayerRows, weights: Tensor) -> Tensor:
        """No gradient is written out where there is one position or tokens are rows."""
        rows, columns = self._matching(layer)
        if isinstance(rows, OneHot):
            where, sums = self._by_token(rows, columns)
            found = (sums.square_() * weights[where % rows.size]).sum(1)
            return found.new_zeros(len(rows.index)).index_add_(0, where // rows.size, found)
        if positions(rows) == 1:
            left, right = self._squares(rows, columns)
            return ((left @ weights) * right).sum(1)
        return torch.cat([made.square_().flatten(1) @ weights.flatten() for made in self._written(rows, columns)])

    @property
    def eigenvalues(self) -> Tensor:
        """``(rows, columns)``."""
        assert self._values is not None
        return self._values

    def diagonal(self, values: Tensor) -> Tensor:
        """Σ_rc Q_r² Q_c² of the values."""
        made, (first, second) = self._matrices(values[None])[0], self._bases
        made = made if second is None else made @ second.square()
        return made if first is None else first.square().T @ made

    def into(self, flat: Tensor) -> Tensor:
        """Q_rᵀ G Q_c, ``(k, rows, columns)``."""
        return self._turn(self._matrices(flat))

    def back(self, turned: Tensor) -> Tensor:
        """Q_r G Q_cᵀ, the bias last."""
        first, second = self._bases
        made = turned if second is None else turned @ second.T
        made = made if first is None else first @ made
        return made.flatten(1) if self.ones != 1 else torch.cat([made[:, :, :-1].flatten(1), made[:, :, -1]], 1)

    def _matrices(self, flat: Tensor) -> Tensor:
        if self.ones != 1:
            return flat.reshape(-1, *self.shape)
        weight, bias = flat.split([self.shape[0] * (self.shape[1] - 1), self.shape[0]], 1)
        return torch.cat([weight.reshape(len(flat), self.shape[0], -1), bias[:, :, None]], 2)

    def _turn(self, made: Tensor) -> Tensor:
        first, second = self._bases
        made = made if second is None else made @ second
        return made if first is None else first.T @ made

    def _based(self, side: Dense, number: int) -> Tensor:
        basis = self._bases[number]
        return side.vectors if basis is None else side.vectors @ basis

    def _squares(self, rows: Dense, columns: Dense) -> tuple[Tensor, Tensor]:
        """``(b, rows)`` and ``(b, columns)`` of single outer products in the basis."""
        return self._based(rows, 0)[:, 0].square(), self._based(columns, 1)[:, 0].square()

    def _by_token(self, rows: OneHot, columns: Dense) -> tuple[Tensor, Tensor]:
        """Rows of gradients that are not zero: where, instance times vocabulary plus token, and ``(., columns)``."""
        keys = rows.index + rows.size * torch.arange(len(rows.index), device=rows.index.device)[:, None]
        where, place = torch.unique(keys, return_inverse=True)
        vectors = self._based(columns, 1).flatten(0, 1)
        return where, vectors.new_zeros(len(where), vectors.shape[1]).index_add_(0, place.flatten(), vectors)

    def _written(self, rows: Dense, columns: Dense) -> Iterator[Tensor]:
        """Gradients in the basis, ``(b, rows, columns)`` of some instances at a time."""
        (high, wide), length = self.shape, positions(rows)
        early = length * (high**2 + wide**2) < high * wide * (high + wide)  # turn the sides, not their products
        left, right = (self._based(rows, 0), self._based(columns, 1)) if early else (rows.vectors, columns.vectors)
        size = max(PIECE_BYTES // (8 * high * wide), 1)
        for mine, theirs in zip(left.split(size), right.split(size), strict=True):
            made = torch.bmm(mine.transpose(1, 2), theirs)
            yield made if early else self._turn(made)

    def _matching(self, layer: LayerRows) -> tuple[Side, Dense]:
        found = _sides(layer)
        if found is None or _shape(found) != self.shape:
            raise IncompatibleError(OTHER_WAYS)
        return found
