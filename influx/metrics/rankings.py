"""Agreement of several rankings with each other: Jaccard and rank-biased overlap, and parts of the variance.

Equal values are ordered by row index, the same in all arrays; ``tied_at`` and ``tied_weight`` say where that matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from influx.metrics.ranking import overlap, top
from influx.metrics.statistics import FloatArray

BEYOND = 1e-9  # weight of the ranks that rank-biased overlap does not look at


def jaccard(arrays: Sequence[FloatArray], k: int) -> FloatArray:
    """``(m,)`` mean over pairs of arrays (n, m) of |A ∩ B| / |A ∪ B| for the sets of the k largest of each column."""
    best = [top(values, k) for values in arrays]
    common = [overlap(a, b, len(arrays[0])) for a, b in combinations(best, 2)]  # |A ∩ B| / k
    return np.asarray(np.mean([share / (2 - share) for share in common], axis=0))


def tied_at(values: FloatArray, k: int) -> NDArray[np.bool_]:
    """``(m,)`` columns of ``values`` (n, m) whose k-th largest equals the next, so that these k are no one set."""
    n, m = values.shape
    if k >= n:
        return np.zeros(m, np.bool_)
    parts = np.partition(values, (n - k - 1, n - k), axis=0)
    return np.asarray(parts[n - k - 1] == parts[n - k])


def tied_weight(values: FloatArray, p: float) -> FloatArray:
    """``(m,)`` weight in rank-biased overlap, of 1, of the ranks d where the d largest are no one set."""
    ordered = -np.sort(-values, axis=0)[: _depth(len(values), p) + 1]
    return np.asarray((1 - p) * p ** np.arange(len(ordered) - 1) @ (ordered[:-1] == ordered[1:]))


def chance_jaccard(n: int, k: int) -> float:
    """Expected Jaccard of two random sets of k out of n: x common ones are hypergeometric."""
    common = np.arange(k + 1)
    return float(hypergeom.pmf(common, n, k, k) @ (common / (2 * k - common)))


def rank_biased_overlap(arrays: Sequence[FloatArray], p: float) -> FloatArray:
    """``(m,)`` mean over pairs of (1 - p) Σ_d p^(d-1) · |common among the d largest| / d, extrapolated.

    Ranks are looked at until those behind have no weight; the overlap there is taken to be that at the last one, which
    is exact for whole rankings (Webber et al. 2010, equation 30 for equal lengths).
    """
    n, m = arrays[0].shape
    depth = _depth(n, p)
    best = [top(values, depth) for values in arrays]
    d = np.arange(1, depth + 1)[:, None]
    total = np.zeros(m)
    for a, b in combinations(best, 2):
        common = _common(a, b, n)  # (depth, m)
        agreement = common / d
        total += (1 - p) / p * (agreement * p**d).sum(axis=0) + agreement[-1] * p**depth
    return total / len(list(combinations(best, 2)))


def _depth(n: int, p: float) -> int:
    """Ranks to look at."""
    return min(n, int(np.ceil(np.log(BEYOND) / np.log(p))) + 1)


def _common(left: NDArray[np.intp], right: NDArray[np.intp], n: int) -> NDArray[np.int64]:
    """``(depth, m)`` common entries among the first d of two (depth, m) lists of rows out of ``n``.

    An entry of both lists is common from the later of its two places on.
    """
    depth, m = left.shape
    place = np.full((n, m), depth)
    np.put_along_axis(place, right, np.arange(depth)[:, None], axis=0)
    later = np.maximum(np.take_along_axis(place, left, axis=0), np.arange(depth)[:, None])
    arrivals = np.zeros((depth + 1, m), np.int64)
    np.add.at(arrivals, (later, np.arange(m)), 1)
    return np.cumsum(arrivals[:depth], axis=0)


@dataclass(frozen=True)
class Parts:
    """Parts of the variance of influence on each test instance ``(m,)``, by the method of moments; not below 0.

    ``instances``: between training instances, the same under all seeds; ``seeds``: between seeds, the same for all
    instances; ``rest``: what a seed does to single instances. ``repeat`` is instances / (instances + rest), not cut at
    0: the correlation of two seeds (intraclass, consistency); ``mean`` the same for means over all seeds.
    """

    instances: FloatArray
    seeds: FloatArray
    rest: FloatArray
    repeat: FloatArray
    mean: FloatArray


def parts_of_variance(arrays: FloatArray) -> Parts:
    """Two-way analysis of variance without replication of ``arrays`` (seeds, n, m), column by column.

    NaN where a column is the same everywhere.
    """
    s, n, _ = arrays.shape
    largest = np.abs(arrays).max(axis=(0, 1))
    values = arrays / np.where(largest > 0, largest, 1.0)  # squares of 1e-200 would vanish
    of_instance, of_seed = values.mean(axis=0, keepdims=True), values.mean(axis=1, keepdims=True)
    mean = values.mean(axis=(0, 1), keepdims=True)
    between = s * ((of_instance - mean) ** 2).sum(axis=(0, 1)) / (n - 1)
    seeds = n * ((of_seed - mean) ** 2).sum(axis=(0, 1)) / (s - 1)
    rest = ((values - of_instance - of_seed + mean) ** 2).sum(axis=(0, 1)) / ((n - 1) * (s - 1))
    scale = largest**2
    parts = [np.maximum((between - rest) / s, 0) * scale, np.maximum((seeds - rest) / n, 0) * scale, rest * scale]
    spread = between + (s - 1) * rest
    repeat = (between - rest) / np.where(spread > 0, spread, np.nan)
    averaged = (between - rest) / np.where(between > 0, between, np.nan)
    return Parts(parts[0], parts[1], parts[2], repeat, averaged)
