"""A few numbers that tell how far a matrix has moved from an earlier one, without keeping that one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.streams import stream

DIRECTIONS = 24  # the change that random sums estimate has a relative error of about √(2/24) / 2 = 0.14


def fingerprint(values: NDArray[Any]) -> tuple[float, ...]:
    """Root mean square, share of finite numbers, then sums along ``DIRECTIONS`` random directions of unit variance.

    Directions depend on the shape alone. For a matrix E, the mean square of its sums is an unbiased estimate of its
    own mean square (Johnson and Lindenstrauss 1984), which also holds for the difference of two matrices.
    """
    finite = np.isfinite(values)
    filled = np.where(finite, np.asarray(values, dtype=np.float64), 0.0)
    rng = stream(0, f"bench/{filled.shape}")
    sums = []
    for _ in range(DIRECTIONS):
        sums.append(float((filled * rng.choice((-1.0, 1.0), size=filled.shape)).sum() / math.sqrt(filled.size)))
    return (math.sqrt(float((filled**2).mean())), float(finite.mean()), *sums)


def change(then: Sequence[float], now: Sequence[float]) -> float:
    """Estimated ‖now − then‖ / ‖then‖: 2 for a sign error, 1 for a doubling, about √2 for somebody else's numbers.

    At least |‖now‖ − ‖then‖| / ‖then‖, which is exact: a factor is seen however the random sums fall.
    Infinite where the shape or the number of finite values differs.
    """
    if len(then) != len(now) or not math.isclose(then[1], now[1], abs_tol=1e-6):
        return math.inf
    apart = np.asarray(now[2:]) - np.asarray(then[2:])
    moved = math.sqrt(float((apart**2).mean()))
    if then[0] == 0:
        return 0.0 if moved == 0 and now[0] == 0 else math.inf
    return max(moved, abs(now[0] - then[0])) / then[0]
