"""The curvature of a weight in the eigenbasis of its Kronecker factors (EK-FAC, George et al. 2018, arXiv:1806.03884).

An instance's gradient of a weight is G = Σ_s r_s c_sᵀ over positions s: of one vector for a table, of tokens, of an
image's patches, of all uses of the weight. Eigenvectors of E Σ_s r_s r_sᵀ and of E Σ_s c_s c_sᵀ make the basis
Q_r ⊗ Q_c. The second moments of Q_rᵀ G Q_c are the eigenvalues that bring the matrix nearest to the curvature of the
layer, in the Frobenius norm, that this basis allows. A bias is one more input, which is always 1. Tokens are one-hot,
and the basis of their side is the standard one. So is that of a side with more than ``SIDE`` numbers, whose moments
would not fit in memory: its block is of the kind ``partial``.

Sums over instances and decompositions are float64, everything else is in the gradients' own precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from influx.engines import outer
from influx.engines.blocks import OTHER_WAYS, Block, Held, Met, Separate, Strategy, Whole
from influx.engines.convolutions import Convolved
from influx.engines.factors import Dense, OneHot, Side, positions
from influx.engines.layers import LayerRows, Weighted
from influx.engines.sides import shape_of, sides_of
from influx.errors import IncompatibleError

WHOLE = 2000  # numbers at most in a layer that is no sum of outer products for its matrix to be written out
SIDE = 8000  # numbers at most in a side with a basis of its own: half a gigabyte


def block_for(layer: LayerRows, numbers: int, strategy: Strategy, whole: int = 0, repeated: bool = True) -> Block:
    """The block of a layer with so many numbers, given gradients of a few instances.

    Weights with up to ``whole`` numbers get a matrix of their own too. ``repeated`` says that instances come several
    times, with other output gradients.
    """
    found = sides_of(layer)
    if found is None or numbers <= whole:
        return Whole(numbers) if numbers <= max(whole, WHOLE) and strategy != "diagonal" else Separate(numbers)
    assert isinstance(layer, Weighted)
    rows, _, ones = found
    shape = shape_of(*found)
    fits = isinstance(rows, OneHot) or shape[0] <= SIDE, shape[1] <= SIDE
    turned = (False, False) if strategy == "diagonal" else (isinstance(rows, Dense) and fits[0], fits[1])
    narrow = strategy == "diagonal" or all(fits)
    kind = "diagonal" if not any(turned) else "kronecker" if narrow else "partial"
    first = layer.terms[0]
    order = first.pixels if isinstance(first, Convolved) else None
    return Kronecker(shape, ones, turned, strategy == "kfac", repeated, kind, order)


@dataclass
class Kronecker:
    """A weight with the bias that goes along, ``shape`` (rows, columns).

    Attributes:
        shape: of the weight; the side of the inputs is longer by one when there is a bias.
        ones: the side with the bias, None without one.
        turned: whether a side gets a basis other than its own.
        product: eigenvalues are products of those of the two factors (K-FAC), with a second pass to no purpose.
        repeated: instances come several times, with other output gradients.
        order: which of the weight's columns each column is, where they are in another order.
    """

    shape: tuple[int, int]
    ones: int | None
    turned: tuple[bool, bool]
    product: bool
    repeated: bool = True
    kind: str = "kronecker"
    order: Tensor | None = None
    _moments: list[Tensor | None] = field(default_factory=lambda: [None, None])  # (d, d), or (d,) without a basis
    _last: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # by side: vectors and their moment
    _bases: list[Tensor | None] = field(default_factory=lambda: [None, None])
    _values: Tensor | None = None
    _trace: float = 0.0
    _count: float = 0.0  # Σ w over instances and their pseudo-gradients
    _length: int = 1
    _dtype: torch.dtype = torch.float64

    def gather(self, layer: LayerRows, weight: float, again: bool) -> None:
        """Second moments of both sides."""
        rows, columns = self._matching(layer)
        if self.product:
            self._trace += weight * float(layer.squares().sum())
        self._count, self._length = self._count + weight * len(columns.vectors), positions(columns)
        self._dtype = columns.vectors.dtype
        for number, side in enumerate((rows, columns)):
            if self.turned[number] or self.product:
                found, known = self._moment(number, side, again), self._moments[number]
                self._moments[number] = found.double() * weight if known is None else known.add_(found, alpha=weight)

    def _moment(self, number: int, side: Side, again: bool) -> Tensor:
        """Inputs stay the same when output gradients change: their moment is computed once."""
        if isinstance(side, OneHot):
            return torch.bincount(side.index.flatten(), minlength=side.size).double()
        if not self.turned[number]:
            return self._full(side.vectors, number).flatten(0, 1).square().sum(0)
        known = self._last.get(number)
        if again and known is not None and torch.equal(known[0], side.vectors):
            return known[1]
        found = outer.moment(side.vectors.flatten(0, 1), self.ones == number)
        if self.repeated:
            self._last[number] = side.vectors, found
        return found

    def turn(self) -> None:
        """Eigenvectors of both moments."""
        own = []
        self._last = {}
        for number, found in enumerate(self._moments):
            self._moments[number] = None
            if found is not None and found.ndim == 2:
                found, basis = torch.linalg.eigh(found)  # reads the lower triangle
                self._bases[number] = basis.to(self._dtype)
            own.append(found)
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
            self._values = columns.vectors.new_zeros(self.shape, dtype=torch.float64)
        if isinstance(rows, OneHot):
            token, _, sums = outer.by_token(rows.index, self._based(columns.vectors, 1))
            self._values.index_add_(0, token, sums.square_().double(), alpha=weight)
        elif positions(rows) == 1:
            left, right = self._single(rows, columns)
            self._values.add_(left.square().T @ right.square(), alpha=weight)
        else:
            for written in self._written(rows, columns):
                self._values.add_(written.square_().sum(0), alpha=weight)

    def weighed(self, layer: LayerRows, weights: Tensor) -> Tensor:
        """No gradient is written out where there is one position or tokens are rows."""
        rows, columns = self._matching(layer)
        weights = weights.to(columns.vectors)
        if isinstance(rows, OneHot):
            token, instance, sums = outer.by_token(rows.index, self._based(columns.vectors, 1))
            found = (sums.square_() * weights[token]).sum(1)
            return found.new_zeros(len(rows.index)).index_add_(0, instance, found)
        if positions(rows) == 1:
            left, right = self._single(rows, columns)
            return ((left.square() @ weights) * right.square()).sum(1)
        return torch.cat([made.square_().flatten(1) @ weights.flatten() for made in self._written(rows, columns)])

    def hold(self, layer: LayerRows, weights: Tensor) -> tuple[Tensor, ...]:
        """Sides in the basis where there is one position; tokens and their vectors; else written out."""
        rows, columns = self._matching(layer)
        weights = weights.to(columns.vectors)
        if isinstance(rows, OneHot):
            weighed, basis = self._based(columns.vectors, 1) * weights[rows.index], self._bases[1]
            return rows.index, weighed if basis is None else weighed @ basis.T
        if positions(rows) == 1:
            return self._single(rows, columns)
        made = torch.cat([self._unturned(made.mul_(weights)) for made in self._written(rows, columns)])
        if self.ones is None:
            return (made.flatten(1),)
        weight, bias = made.split([made.shape[1 + self.ones] - 1, 1], 1 + self.ones)
        return weight.flatten(1), bias.flatten(1)

    def meet(self, layer: LayerRows, held: Held, into: Tensor) -> Met:
        """Sides of one position, and tokens, are left for ``finish``, which multiplies more instances at a time."""
        rows, columns = self._matching(layer)
        if isinstance(rows, OneHot):
            token, instance, sums = outer.by_token(rows.index, columns.vectors)
            squares = sums.new_zeros(len(into)).index_add_(0, instance, sums.square().sum(1))
            total = sums.new_zeros(self.shape).index_add_(0, token, sums)
            return Met(squares, total.flatten(), (rows.index, columns.vectors))
        if positions(rows) > 1:
            squares, made = outer.written_products(rows.vectors, columns.vectors, held.tensors[0], into)
            total = self._ordered(made[None], inverse=True).flatten()
            if self.ones is not None:
                bias = (rows, columns)[1 - self.ones].vectors.sum(1)
                into.addmm_(bias, held.tensors[1].T)
                squares, total = squares + bias.square().sum(1), torch.cat([total, bias.sum(0)])
            return Met(squares, total)
        if held.tensors[0].shape[1] != self.shape[0]:
            raise IncompatibleError(OTHER_WAYS)
        left, right = self._full(rows.vectors, 0)[:, 0], self._full(columns.vectors, 1)[:, 0]
        squares = left.square().sum(1) * right.square().sum(1)
        return Met(squares, self._flat((left.T @ right)[None])[0], self._single(rows, columns))

    def finish(self, sides: tuple[Tensor, Tensor], held: Held, into: Tensor) -> None:
        """Products token by token, or of outer products in the basis, written out some columns at a time."""
        if sides[1].ndim == 3:
            return outer.token_products(outer.by_token(*sides), held.tokens, into)
        outer.outer_products(sides, (held.tensors[0], held.tensors[1]), held.weights.to(into), into)

    @property
    def trace(self) -> float:
        """That of the eigenvalues, but for K-FAC."""
        return self._trace if self.product else float(self.eigenvalues.sum())

    @property
    def eigenvalues(self) -> Tensor:
        """``(rows, columns)``."""
        assert self._values is not None
        return self._values

    def diagonal(self, values: Tensor) -> Tensor:
        """Σ_rc Q_r² Q_c² of the values."""
        made = self._matrices(values[None])[0]
        first, second = (None if basis is None else basis.to(made).square() for basis in self._bases)
        made = made if second is None else made @ second
        return made if first is None else first.T @ made

    def into(self, flat: Tensor) -> Tensor:
        """Q_rᵀ G Q_c, ``(k, rows, columns)``."""
        made, (first, second) = self._matrices(flat), self._bases
        made = made if second is None else made @ second.to(made)
        return made if first is None else first.T.to(made) @ made

    def back(self, turned: Tensor) -> Tensor:
        """Q_r G Q_cᵀ, the bias last."""
        return self._flat(self._unturned(turned))

    def _unturned(self, turned: Tensor) -> Tensor:
        first, second = self._bases
        made = turned if second is None else turned @ second.T.to(turned)
        return made if first is None else first.to(made) @ made

    def _flat(self, made: Tensor) -> Tensor:
        if self.ones != 1:
            return self._ordered(made, inverse=True).flatten(1)
        return torch.cat([self._ordered(made[:, :, :-1], inverse=True).flatten(1), made[:, :, -1]], 1)

    def _matrices(self, flat: Tensor) -> Tensor:
        if self.ones != 1:
            return self._ordered(flat.reshape(-1, *self.shape))
        weight, bias = flat.split([self.shape[0] * (self.shape[1] - 1), self.shape[0]], 1)
        return torch.cat([self._ordered(weight.reshape(len(flat), self.shape[0], -1)), bias[:, :, None]], 2)

    def _ordered(self, made: Tensor, inverse: bool = False) -> Tensor:
        """Columns in the order of the block, or back in that of the weight."""
        if self.order is None:
            return made
        return made[:, :, self.order.argsort() if inverse else self.order]

    def _full(self, vectors: Tensor, number: int) -> Tensor:
        return outer.with_ones(vectors) if self.ones == number else vectors

    def _based(self, vectors: Tensor, number: int) -> Tensor:
        """``(b, L, d)`` vectors of a side in its basis."""
        basis = self._bases[number]
        if basis is None:
            return self._full(vectors, number)
        flat = vectors.flatten(0, 1)
        made = torch.addmm(basis[-1], flat, basis[:-1]) if self.ones == number else flat @ basis
        return made.view(*vectors.shape[:2], -1)

    def _single(self, rows: Dense, columns: Dense) -> tuple[Tensor, Tensor]:
        """``(b, rows)`` and ``(b, columns)`` of single outer products in the basis."""
        return self._based(rows.vectors, 0)[:, 0], self._based(columns.vectors, 1)[:, 0]

    def _written(self, rows: Dense, columns: Dense) -> Iterator[Tensor]:
        """Gradients in the basis, ``(b, rows, columns)`` of some instances at a time."""
        (high, wide), length = self.shape, positions(rows)
        first, second = self._bases
        early = first is None or length <= wide, second is None or length <= high  # turn sides, not their products
        size = max(outer.PIECE_BYTES // (rows.vectors.element_size() * high * wide), 1)
        for mine, theirs in zip(rows.vectors.split(size), columns.vectors.split(size), strict=True):
            left = self._based(mine, 0) if early[0] else self._full(mine, 0)
            made = torch.bmm(left.transpose(1, 2), self._based(theirs, 1) if early[1] else theirs)
            if second is not None and not early[1]:
                made = made @ second[: made.shape[2]]
                if self.ones == 1:
                    made.addcmul_(left.sum(1).unsqueeze(2), second[-1])
            yield made if early[0] or first is None else first.T @ made

    def _matching(self, layer: LayerRows) -> tuple[Side, Dense]:
        found = sides_of(layer)
        if found is None or shape_of(*found) != self.shape:
            raise IncompatibleError(OTHER_WAYS)
        return found[:2]
