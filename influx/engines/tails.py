"""The distribution of influence on each instance in numbers, and how far out an instance's score lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

Array = NDArray[np.float64]
Tail = Literal["upper", "lower", "two-sided"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LEVEL = 0.95
NORMAL = 1.482602218505602  # standard deviation of a normal variable over its median absolute deviation
CELLS_CHUNK = 4_000_000  # numbers of a distribution, or of resamples, held at once


def shares(values: Array, points: tuple[float, ...]) -> Array:
    """``(points, m)`` smallest values of each column (s, m) with at least such a share at or below them."""
    found = np.empty((len(points), values.shape[1]))
    order = [place(point, len(values)) - 1 for point in points]
    for columns in _columns(values):
        found[:, columns] = np.partition(np.asarray(values[:, columns]), sorted(set(order)), axis=0)[order]
    return found


def place(point: float, size: int) -> int:
    """Which of ``size`` numbers in order is their quantile at ``point``, counted from 1."""
    return int(min(max(np.ceil(point * size - 1e-9), 1), size))


def moments(values: Array) -> tuple[Array, Array]:
    """``(m,)`` mean and standard deviation (divisor s - 1) of each column (s, m)."""
    mean, deviation = np.empty(values.shape[1]), np.empty(values.shape[1])
    for columns in _columns(values):
        block = np.asarray(values[:, columns])
        mean[columns], deviation[columns] = block.mean(axis=0), block.std(axis=0, ddof=1)
    return mean, deviation


def mean_interval(values: Array, n_boot: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """95% percentile bootstrap intervals ``(m,)`` of the mean of each column (s, m); rows are resampled."""
    size, made = len(values), []
    step = max(1, CELLS_CHUNK // size)
    for start in range(0, n_boot, step):
        counts = rng.multinomial(size, np.full(size, 1 / size), min(step, n_boot - start))
        made.append(counts.astype(np.float64) @ values / size)
    low, high = np.quantile(np.concatenate(made), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def quantile_interval(values: Array, point: float) -> tuple[Array, Array]:
    """The same of the quantile at ``point``, with all resamples instead of some.

    Number k in order of a resample of s numbers is at most their number j if k of s draws, each with probability j/s,
    are among the first j.
    """
    size = len(values)
    reached = binom.sf(place(point, size) - 1, size, np.arange(1, size + 1) / size)
    ends = np.searchsorted(reached, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = shares(values, tuple((end + 1) / size for end in ends.tolist()))
    return low, high


def narrowed(score: Array, ends: tuple[Array, Array], size: int, total: int) -> tuple[Array, Array]:
    """Intervals around ``score`` for ``size`` of ``total`` instances drawn without replacement.

    The finite-population correction: deviations shrink by √(1 - size/total).
    """
    factor = np.sqrt(1 - size / total)
    low, high = (score + factor * (end - score) for end in ends)
    return low, high


@dataclass(frozen=True)
class Judged:
    """How scores (m,) lie in what is usual.

    ``standardised`` is the distance from the median in robust standard deviations, NaN without a spread; ``p_value``
    the share of usual scores, the score itself included, at least as far out, NaN for a score that is not finite;
    ``suspicion`` is high where that is. ``least`` is the smallest p-value that could come out.
    """

    standardised: Array
    p_value: Array
    suspicion: Array
    least: float


def judged(scores: Array, usual: Array, tail: Tail, among: bool) -> Judged:
    """Scores against ``usual`` (r,) ones; ``among``: the scores are themselves the usual ones.

    With scores that can be exchanged with the usual ones, p-values are valid: P(p ≤ a) ≤ a. A two-sided one is twice
    the smaller of the two. Usual scores that are not finite are dropped.
    """
    usual, known = usual[np.isfinite(usual)], np.isfinite(scores)
    if not len(usual):
        none = np.full(len(scores), np.nan)
        return Judged(none, none, none, 1.0)
    median = np.median(usual)
    spread = NORMAL * np.median(np.abs(usual - median))
    ordered, counted, total = np.sort(usual), 0 if among else 1, len(usual) + (0 if among else 1)
    upper = (counted + len(usual) - np.searchsorted(ordered, scores, side="left")) / total
    lower = (counted + np.searchsorted(ordered, scores, side="right")) / total
    p_value = {"upper": upper, "lower": lower, "two-sided": np.minimum(1.0, 2 * np.minimum(upper, lower))}[tail]
    standardised = (scores - median) / spread if spread > 0 else np.full(len(scores), np.nan)
    least = min(1.0, (2 if tail == "two-sided" else 1) / total)
    return Judged(standardised, np.where(known, p_value, np.nan), suspicion(scores, median, tail), least)


def suspicion(scores: Array, median: float, tail: Tail) -> Array:
    """``(m,)`` numbers that are high for scores far out in the tail."""
    return {"upper": scores, "lower": -scores, "two-sided": np.abs(scores - median)}[tail]


def _columns(values: Array) -> Iterator[slice]:
    step = max(1, CELLS_CHUNK // len(values))
    return (slice(start, start + step) for start in range(0, values.shape[1], step))
