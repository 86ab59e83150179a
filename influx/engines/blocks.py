"""Curvature layer by layer, each block diagonal in a basis of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from influx.engines.layers import LayerRows

Strategy = Literal["ekfac", "kfac", "diagonal"]
OTHER_WAYS = (
    "the model uses a parameter in another way for some instances than for others, so that its layers have no one "
    "shape; choose an estimator that does not look at layers, such as estimator=if_cg"
)


class Block(Protocol):
    """Curvature of one layer with q numbers, Σ w g gᵀ over gradients g with weights w.

    Gradients are met twice: ``gather`` prepares the basis, ``turn`` makes it, ``measure`` finds the eigenvalues.
    """

    kind: str
    trace: float  # of the layer's exact curvature

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


@dataclass
class Whole:
    """The layer's own matrix, written out."""

    numbers: int
    trace: float = 0.0
    kind: str = "whole"
    _matrix: Tensor | None = None
    _values: Tensor | None = None

    def gather(self, layer: LayerRows, weight: float, again: bool) -> None:
        """Outer products."""
        flat = layer.flat()
        self._matrix = flat.new_zeros(self.numbers, self.numbers) if self._matrix is None else self._matrix
        self._matrix.addmm_(flat.T, flat, alpha=weight)

    def turn(self) -> None:
        """Eigenvalues and eigenvectors, which take the matrix's place."""
        assert self._matrix is not None
        self.trace = float(self._matrix.trace())
        values, self._matrix = torch.linalg.eigh(self._matrix)
        self._values = values.clamp_min(0)

    def measure(self, layer: LayerRows, weight: float) -> None:
        """They are known."""

    @property
    def eigenvalues(self) -> Tensor:
        """``(q,)``."""
        assert self._values is not None
        return self._values

    def diagonal(self, values: Tensor) -> Tensor:
        """``(q,)``."""
        return values @ self._basis.square()

    def into(self, flat: Tensor) -> Tensor:
        """``(k, q)``."""
        return flat @ self._basis

    def back(self, turned: Tensor) -> Tensor:
        """``(k, q)``."""
        return turned @ self._basis.T

    def weighed(self, layer: LayerRows, weights: Tensor) -> Tensor:
        """Written out."""
        return self.into(layer.flat()).square() @ weights

    @property
    def _basis(self) -> Tensor:
        assert self._matrix is not None and self._values is not None
        return self._matrix


@dataclass
class Separate:
    """The diagonal of the layer's matrix."""

    numbers: int
    trace: float = 0.0
    kind: str = "diagonal"
    _values: Tensor | None = None

    def gather(self, layer: LayerRows, weight: float, again: bool) -> None:
        """Squares."""
        squares = layer.flat().square().sum(0)
        self._values = squares * weight if self._values is None else self._values.add_(squares, alpha=weight)

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

    def into(self, flat: Tensor) -> Tensor:
        """Themselves."""
        return flat

    def back(self, turned: Tensor) -> Tensor:
        """Themselves."""
        return turned

    def weighed(self, layer: LayerRows, weights: Tensor) -> Tensor:
        """Written out."""
        return layer.flat().square() @ weights
