"""Many normal densities at once, and weighted moments of many weightings of the same instances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from influx.learners.linear.system import outer

OUTER_BYTES = 32 << 20  # products of features that are kept
WHITENED_BYTES = 8 << 20  # of instances under several models at a time: about a core's cache
ROUNDING = 1e-16  # variance of a constant 1, divided by what counts as none: squared rounding errors are far below
LOG_TAU = math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True)
class Normals:
    """K normal densities in d dimensions.

    Attributes:
        mean: ``(K, d)``.
        root: ``(K, d, d)`` with covariance root rootᵀ, or ``(K, d)`` deviations of independent features.
        inverse: the same, inverted.
        log_determinant: ``(K,)`` of the covariance.
    """

    mean: Tensor
    root: Tensor
    inverse: Tensor
    log_determinant: Tensor

    def risks(self, x: Tensor) -> Tensor:
        """``(K, n)`` minus the logarithms of the densities of ``x`` (n, d)."""
        constant = 0.5 * (self.log_determinant + x.shape[1] * LOG_TAU)
        step = max(1, WHITENED_BYTES // (8 * self.mean.numel()))
        squares = [self._squares(part) for part in x.split(step)]
        return constant[:, None] + 0.5 * torch.cat(squares, 1)

    def _squares(self, x: Tensor) -> Tensor:
        """``(K, n)`` squared distances from the means in units of the covariance."""
        off = x - self.mean[:, None]
        if self.inverse.ndim == 2:
            return torch.einsum("knd,kd->kn", off.square_(), self.inverse.square())
        return torch.bmm(off, self.inverse.mT).square_().sum(2)

    def sample(self, normals: Tensor) -> Tensor:
        """Instances ``(n, d)`` of the first density from standard normal numbers (n, d)."""
        root = self.root[0]
        return self.mean[0] + (normals * root if root.ndim == 1 else normals @ root.T)


@dataclass(frozen=True)
class Moments:
    """Of the instances ``x`` (n, d), about their mean, so that differences of squares keep their digits."""

    x: Tensor

    @cached_property
    def centre(self) -> Tensor:
        """``(d,)``."""
        return self.x.mean(0)

    @cached_property
    def _off(self) -> Tensor:
        return self.x - self.centre

    def means(self, shares: Tensor) -> Tensor:
        """``(K, d)`` weighted means less the centre; rows of ``shares`` (K, n) sum to 1."""
        return shares @ self._off

    def variances(self, shares: Tensor) -> Tensor:
        """``(K, d)`` weighted variances of every feature."""
        return (shares @ self._squares - self.means(shares).square()).clamp_(min=0)

    def covariances(self, shares: Tensor) -> Tensor:
        """``(K, d, d)`` weighted covariances."""
        means, d = self.means(shares), self.x.shape[1]
        if self._outer is None:
            second = torch.stack([(self._off * row[:, None]).T @ self._off for row in shares])
        else:
            i, j = torch.tril_indices(d, d)
            second = torch.empty(len(shares), d, d, dtype=shares.dtype)
            second[:, i, j] = second[:, j, i] = shares @ self._outer
        return second - means[:, :, None] * means[:, None]

    @cached_property
    def scales(self) -> Tensor:
        """``(d,)`` variances of all instances, and at least what rounding makes of a constant."""
        return self._squares.mean(0) + ROUNDING * self.centre.square()

    @cached_property
    def _squares(self) -> Tensor:
        return self._off.square()

    @cached_property
    def _outer(self) -> Tensor | None:
        """All products of features where they are few enough to keep."""
        n, d = self.x.shape
        return outer(self._off) if 4 * n * d * (d + 1) <= OUTER_BYTES else None
