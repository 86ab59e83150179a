"""Curvature layer by layer, each block diagonal in a basis of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from influx.engines.layers import LayerRows
from influx.engines.outer import Tokens, by_token

Strategy = Literal["ekfac", "kfac", "diagonal"]
OTHER_WAYS = (
    "the model uses a parameter in another way for some instances than for others, so that its layers have no one "
    "shape; choose an estimator that does not look at layers, such as estimator=if_cg"
)


@dataclass(frozen=True)
class Held:
    """What gradients of a layer are multiplied with, made from those of m instances.

    Attributes:
        weights: of squares in the block's basis, in the shape of its eigenvalues.
        tensors: each with m in its first dimension.
    """

    weights: Tensor
    tensors: tuple[Tensor, ...]

    @cached_property
    def tokens(self) -> Tokens:
        """Of tokens ``(m, L)`` and vectors ``(m, L, d)``."""
        return by_token(*self.tensors)


class Met(NamedTuple):
    """What products with a block of gradients give besides: squared norms, the sum, and what is left to multiply."""

    squares: Tensor  # (b,)
    total: Tensor  # (q,)
    sides: tuple[Tensor, Tensor] | None = None  # (b, rows) and (b, columns)


class Block(Protocol):
    """Curvature of one layer with q numbers, Σ w g gᵀ over gradients g with weights w.

    Gradients are met twice: ``gather`` prepares the basis, ``turn`` makes it, ``measure`` finds the eigenvalues.
    """

    kind: str

    @property
    def trace(self) -> float:
        """Of the layer's exact curvature."""
        ...

    def gather(self, layer: LayerRows, weight: float, again: bool) -> None:
        """First pass; ``again`` when the instances are those of the last call, with other output gradients."""
        ...

    def turn(self) -> None:
        """Between the passes."""
        ...

    def measure(self, layer: LayerRows, weight: float) -> None:
        """Second pass."""
        ...

    @property
    def eigenvalues(self) -> Tensor:
        """In the shape of one row of what ``into`` returns."""
        ...

    def diagonal(self, values: Tensor) -> Tensor:
        """Diagonal in this basis of the matrix that is diagonal, ``values`` (q,), in the layer's own."""
        ...

    def into(self, flat: Tensor) -> Tensor:
        """Rows ``(k, q)`` in this basis."""
        ...

    def back(self, turned: Tensor) -> Tensor:
        """Rows ``(k, q)`` out of this basis."""
        ...

    def weighed(self, layer: LayerRows, weights: Tensor) -> Tensor:
        """``(b,)`` sums of squares in this basis times ``weights``, which have the shape of the eigenvalues."""
        ...

    def hold(self, layer: LayerRows, weights: Tensor) -> tuple[Tensor, ...]:
        """What others' gradients are to be multiplied with, for products weighed by ``weights`` in this basis."""
        ...

    def meet(self, layer: LayerRows, held: Held, into: Tensor) -> Met:
        """Add the products of ``b`` gradients with what is held to ``into`` (b, m), or leave them to ``finish``."""
        ...

    def finish(self, sides: tuple[Tensor, Tensor], held: Held, into: Tensor) -> None:
        """Add the products that are left, from the sides of one or more calls of ``meet``."""
        ...


@dataclass
class WrittenOut:
    """A layer whose gradients are written out to be multiplied."""

    numbers: int

    def into(self, flat: Tensor) -> Tensor:
        """Themselves."""
        return flat

    def back(self, turned: Tensor) -> Tensor:
        """Themselves."""
        return turned

    def hold(self, layer: LayerRows, weights: Tensor) -> tuple[Tensor, ...]:
        """``(b, q)`` products with the matrix that has these eigenvalues."""
        turned = self.into(layer.flat())
        return (self.back(turned * weights.to(turned)),)

    def meet(self, layer: LayerRows, held: Held, into: Tensor) -> Met:
        """One product of matrices."""
        flat = layer.flat()
        into.addmm_(flat, held.tensors[0].T)
        return Met(flat.square().sum(1), flat.sum(0))

    def finish(self, sides: tuple[Tensor, Tensor], held: Held, into: Tensor) -> None:
        """Nothing is left."""


@dataclass
class Whole(WrittenOut):
    """The layer's own matrix, written out."""

    trace: float = 0.0
    kind: str = "whole"
    _matrix: Tensor | None = None  # then the eigenvectors
    _values: Tensor | None = None
    _dtype: torch.dtype = torch.float64

    def gather(self, layer: LayerRows, weight: float, again: bool) -> None:
        """Outer products."""
        flat = layer.flat()
        if self._matrix is None:
            self._matrix, self._dtype = flat.new_zeros(self.numbers, self.numbers, dtype=torch.float64), flat.dtype
        if self._dtype == torch.float64:
            self._matrix.addmm_(flat.T, flat, alpha=weight)
        else:
            self._matrix.add_(flat.T @ flat, alpha=weight)

    def turn(self) -> None:
        """Eigenvalues and eigenvectors, which take the matrix's place."""
        assert self._matrix is not None
        self.trace = float(self._matrix.trace())
        values, basis = torch.linalg.eigh(self._matrix)
        self._values, self._matrix = values.clamp_min(0), basis.to(self._dtype)

    def measure(self, layer: LayerRows, weight: float) -> None:
        """They are known."""

    @property
    def eigenvalues(self) -> Tensor:
        """``(q,)``."""
        assert self._values is not None
        return self._values

    def diagonal(self, values: Tensor) -> Tensor:
        """``(q,)``."""
        return values @ self._basis.to(values).square()

    def into(self, flat: Tensor) -> Tensor:
        """``(k, q)``."""
        return flat @ self._basis.to(flat)

    def back(self, turned: Tensor) -> Tensor:
        """``(k, q)``."""
        return turned @ self._basis.T.to(turned)

    def weighed(self, layer: LayerRows, weights: Tensor) -> Tensor:
        """Written out."""
        turned = self.into(layer.flat())
        return turned.square_() @ weights.to(turned)

    @property
    def _basis(self) -> Tensor:
        assert self._matrix is not None and self._values is not None
        return self._matrix


@dataclass
class Separate(WrittenOut):
    """The diagonal of the layer's matrix."""

    trace: float = 0.0
    kind: str = "diagonal"
    _values: Tensor | None = None

    def gather(self, layer: LayerRows, weight: float, again: bool) -> None:
        """Squares."""
        squares = layer.flat().square().sum(0)
        self._values = squares.double() * weight if self._values is None else self._values.add_(squares, alpha=weight)

    def turn(self) -> None:
        """There is no other basis."""
        self.trace = float(self.eigenvalues.sum())

    def measure(self, layer: LayerRows, weight: float) -> None:
        """They are known."""

    @property
    def eigenvalues(self) -> Tensor:
        """``(q,)``."""
        assert self._values is not None
        return self._values

    def diagonal(self, values: Tensor) -> Tensor:
        """Themselves."""
        return values

    def weighed(self, layer: LayerRows, weights: Tensor) -> Tensor:
        """Written out."""
        squares = layer.flat().square()
        return squares @ weights.to(squares)
