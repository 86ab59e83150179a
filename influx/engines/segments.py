"""Training as a few stretches of steps, each with one curvature and one gradient per instance (SOURCE).

Within a stretch of K steps with learning rates η_t a shift of the parameters shrinks along an eigenvector of the mean
curvature with eigenvalue s by F_S(s), and a constant gradient of size 1 moves them by F_r(s):

    exp        F_S = exp(-Σ η_t s)         F_r = (1 - F_S) / s
    discrete   F_S = Π_t (1 - η_t s)       F_r = (1 - F_S) / s = Σ_t η_t Π_{t'>t} (1 - η_t' s)

and F_r(0) = Σ η_t. Bae et al. 2024, arXiv:2405.12186, have the first; the second is what steps do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.errors import ConfigError, NumericalError
from influx.learners.torch.optimizers import SGD, Optimizer
from influx.problem import Checkpoint

Filter = Literal["exp", "discrete"]


class Spectral(Protocol):
    """A symmetric matrix whose functions can be applied."""

    def apply(self, rhs: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """``(k, p)`` products of rows with a function of the matrix, which gets its eigenvalues."""
        ...


@dataclass(frozen=True)
class Diagonalised:
    """A matrix written out: eigenvalues ``(p,)``, negative ones taken as 0, and eigenvectors ``(p, p)``."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Diagonalised:
        """Of a symmetric ``(p, p)`` matrix."""
        values, vectors = torch.linalg.eigh(matrix)
        return cls(values.clamp_min(0), vectors)

    def apply(self, rhs: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """See ``Spectral``."""
        return ((rhs @ self.vectors) * function(self.values)) @ self.vectors.T


@dataclass(frozen=True)
class Shrinkage:
    """F_S and F_r of a stretch with learning rates ``rates`` (K,)."""

    rates: NDArray[np.float64]
    kind: Filter = "exp"

    def kept(self, eigenvalues: Tensor) -> Tensor:
        """F_S: what is left of a shift at the end of the stretch."""
        size, sign = self._logarithm(eigenvalues)
        return _finite(sign * size.exp())

    def gained(self, eigenvalues: Tensor) -> Tensor:
        """F_r: how far a constant unit gradient moves the parameters, downwards."""
        size, sign = self._logarithm(eigenvalues)
        fallen = torch.where(sign > 0, -torch.expm1(size), 1 + size.exp())  # 1 - F_S without cancellation
        curved = eigenvalues > 0
        safe = torch.where(curved, eigenvalues, 1.0)
        return _finite(torch.where(curved, fallen / safe, float(self.rates.sum())))

    def _logarithm(self, eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of |F_S| and the sign of F_S."""
        sign = torch.ones_like(eigenvalues)
        if self.kind == "exp":
            return -float(self.rates.sum()) * eigenvalues, sign
        total = torch.zeros_like(eigenvalues)
        for rate, count in zip(*np.unique(self.rates, return_counts=True), strict=True):
            step = float(rate) * eigenvalues
            small = torch.log1p(-step.clamp_max(1.0))  # -inf where a step removes all
            total += int(count) * torch.where(step > 1, (step - 1).clamp_min(1e-300).log(), small)
            if count % 2:
                sign = torch.where(step > 1, -sign, sign)
        return total, sign


def _finite(values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise NumericalError(
            "steps with this learning rate grow without bound along the largest curvature; set estimator.filter=exp"
        )
    return values


@dataclass(frozen=True)
class Stretch:
    """Steps ``first`` to ``last``, the last excluded, their learning rates, and the checkpoints that stand for them."""

    first: int
    last: int
    rates: NDArray[np.float64]
    checkpoints: list[Checkpoint]


def stretches(
    saved: list[Checkpoint], rates: NDArray[np.float64], segments: int, checkpoints: int | None
) -> list[Stretch]:
    """The training in ``segments`` parts of equal length, with up to ``checkpoints`` of those saved in each.

    ``rates`` (T,) are those of every step. A checkpoint belongs to the part whose steps led to it; those kept are the
    nearest to the middles of equal pieces of the part.

    Raises:
        ConfigError: there are more parts than steps, or there is one without a saved checkpoint.
    """
    if segments > len(rates):
        raise ConfigError(f"estimator.segments={segments} but the training has {len(rates)} steps; lower it")
    edges = [round(e) for e in np.linspace(0, len(rates), segments + 1)]
    found = []
    for first, last in pairwise(edges):
        inside = [c for c in saved if first < c.step <= last]
        if not inside:
            raise ConfigError(
                f"estimator.segments={segments} but no checkpoint is saved from step {first} to {last}; lower it or "
                f"raise training.checkpoints to at least {segments}"
            )
        found.append(Stretch(first, last, rates[first:last], _spread(inside, first, last, checkpoints)))
    return found


def _spread(inside: list[Checkpoint], first: int, last: int, count: int | None) -> list[Checkpoint]:
    if count is None or count >= len(inside):
        return inside
    middles = first + (last - first) * (np.arange(count) + 0.5) / count
    left, kept = list(inside), []
    for middle in middles:
        nearest = min(left, key=lambda c: (abs(c.step - middle), c.step))
        left.remove(nearest)
        kept.append(nearest)
    return sorted(kept, key=lambda c: c.step)


def momentum_factor(optimizer: Optimizer) -> float:
    """How many times as far as its learning rate a step of SGD moves in the end: (1 - dampening) / (1 - momentum)."""
    if not isinstance(optimizer, SGD) or not optimizer.momentum:
        return 1.0
    return (1 - optimizer.dampening) / (1 - optimizer.momentum)
