"""A measured error beside what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Comparison:
    """One estimator against one oracle on one toy problem."""

    oracle: str  # what it is compared with
    error: float
    bound: float


Oracle = Callable[[Path], Iterator[Comparison]]


def compare(oracle: str, found: ArrayLike, expected: ArrayLike, bound: float) -> Comparison:
    """Largest difference, relative to the largest expected value (absolute where that is zero)."""
    left, right = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if left.shape != right.shape:
        return Comparison(f"{oracle}: shapes {left.shape} and {right.shape}", np.inf, bound)
    size = float(np.abs(right).max(initial=0.0))
    return Comparison(oracle, float(np.abs(left - right).max(initial=0.0)) / (size or 1.0), bound)
