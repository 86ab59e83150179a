"""Running means with standard errors of rows that arrive in batches (Chan, Golub & LeVeque 1983)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Moments:
    """Of independent rows: ``count``, ``mean`` and ``spread`` Σ (x - mean)², the latter two shaped like a row."""

    mean: Array
    spread: Array
    count: int = 0

    @classmethod
    def of(cls, *shape: int) -> Moments:
        """No rows yet."""
        return cls(np.zeros(shape), np.zeros(shape))

    def add(self, rows: Array) -> None:
        """Take in rows (k, ...)."""
        mean = rows.mean(axis=0)
        total = self.count + len(rows)
        self.spread += np.square(rows - mean).sum(axis=0)
        self.spread += np.square(mean - self.mean) * (self.count * len(rows) / total)
        self.mean += (mean - self.mean) * (len(rows) / total)
        self.count = total

    @property
    def stderr(self) -> Array:
        """Standard error of the mean; NaN for fewer than two rows."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        return np.sqrt(self.spread / (self.count * (self.count - 1)))


@dataclass
class Scattered:
    """Of rows that each belong to one of several cells: ``count`` (cells,), ``mean`` and ``spread`` (cells, m)."""

    count: NDArray[np.int64]
    mean: Array
    spread: Array

    @classmethod
    def of(cls, cells: int, columns: int) -> Scattered:
        """No rows yet."""
        return cls(np.zeros(cells, np.int64), np.zeros((cells, columns)), np.zeros((cells, columns)))

    def add(self, cells: NDArray[np.int64], rows: Array) -> None:
        """Take in rows (k, m), each of the cell ``cells`` (k,)."""
        hit, which, new = np.unique(cells, return_inverse=True, return_counts=True)
        mean, spread = np.zeros((len(hit), rows.shape[1])), np.zeros((len(hit), rows.shape[1]))
        np.add.at(mean, which, rows)
        mean /= new[:, None]
        np.add.at(spread, which, np.square(rows - mean[which]))
        old = self.count[hit]
        share = (new / (old + new))[:, None]
        self.spread[hit] += spread + np.square(mean - self.mean[hit]) * (old[:, None] * share)
        self.mean[hit] += (mean - self.mean[hit]) * share
        self.count[hit] += new

    @property
    def values(self) -> Array:
        """Means; NaN for cells without a row."""
        return np.where(self.count[:, None] > 0, self.mean, np.nan)

    @property
    def stderr(self) -> Array:
        """Standard errors of the means; NaN for cells with fewer than two rows."""
        degrees = (self.count * (self.count - 1))[:, None].astype(np.float64)
        return np.sqrt(np.divide(self.spread, degrees, out=np.full_like(self.spread, np.nan), where=degrees > 0))
