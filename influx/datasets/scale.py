"""Standardisation: zero mean and unit variance, from training rows only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BY_TRAINING = "standardised with the mean and deviation of the training instances"  # in the notes of such data


@dataclass(frozen=True)
class Scale:
    """``(x - mean) / std``; both broadcast against an array of instances."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def fit(cls, train: NDArray[Any]) -> Scale:
        """Per feature for tables (n, d), per channel for images (n, c, h, w), of the whole for targets (n,).

        What is constant in train is only centred: its deviation is exactly 0 (rounding would leave a tiny one),
        and it is divided by 1.
        """
        axes = (0, *range(2, train.ndim))
        low, high = train.min(axes, keepdims=True), train.max(axes, keepdims=True)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by ``check_finite``
            mean = train.mean(axes, dtype=np.float64, keepdims=True)
            std = train.std(axes, dtype=np.float64, keepdims=True)
        constant = low == high
        return cls(np.where(constant, low, mean), np.where(constant, 1.0, std))

    def apply(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Standardised float32 values; computed in float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray((x - self.mean) / self.std, np.float32)


def as_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    """float32 copy; values beyond its range become infinite and are refused by ``check_finite``."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32)
