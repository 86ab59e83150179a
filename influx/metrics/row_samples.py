"""Numbers per test instance in every bootstrap resample of the training instances compared (rows).

Which training instances happen to have a truth is the largest error of a number over few of them. All functions
take ``counts`` (n_boot, K), how often a row is in a resample, and return ``(n_boot, m)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from influx.metrics.projections import Parts, Ranked, kendall_parts, ratio, spearman_parts
from influx.metrics.statistics import FloatArray, counts_of, resample

NO_SPREAD = 1e-13  # of values with largest magnitude 1: rounding


def row_counts(rng: np.random.Generator, compared: int, everything: int, n_boot: int) -> FloatArray | None:
    """Resamples of the ``compared`` rows, or None if these are all training instances there are."""
    return counts_of(resample(rng, compared, n_boot)) if compared < everything else None


def interval_over(rows: bool, n_boot: int) -> str:
    """What an interval was taken over, for the protocol."""
    if rows:
        return f"95% CI: bootstrap over training and test instances x{n_boot} (rows and columns resampled)"
    return f"95% CI: bootstrap over test instances x{n_boot}"


def pearson_samples(arrays: Sequence[FloatArray], counts: FloatArray) -> FloatArray:
    """Mean over all pairs of ``arrays``, each (K, m), of the Pearson correlation of each column, exactly."""
    mean = _means(counts)
    centred = [values - values.mean(axis=0, dtype=np.float64) for values in arrays]
    scaled = [values / np.abs(values).max(axis=0) for values in centred]
    first = [mean(values) for values in scaled]
    spread = [mean(x * x) - at * at for x, at in zip(scaled, first, strict=True)]
    spread = [np.where(values > NO_SPREAD, values, np.nan) for values in spread]
    pairs = list(combinations(range(len(arrays)), 2))
    total = np.zeros((len(counts), arrays[0].shape[1]))
    for a, b in pairs:
        total += ratio(mean(scaled[a] * scaled[b]) - first[a] * first[b], spread[a], spread[b])
    return total / len(pairs)


def spearman_samples(arrays: Sequence[FloatArray], counts: FloatArray) -> FloatArray:
    """The same for Spearman's correlation, to first order."""
    return _projected(arrays, counts, spearman_parts)


def kendall_samples(arrays: Sequence[FloatArray], counts: FloatArray) -> FloatArray:
    """The same for Kendall's tau-b, to first order."""
    return _projected(arrays, counts, kendall_parts)


def _projected(
    arrays: Sequence[FloatArray], counts: FloatArray, parts_of: Callable[[Ranked, Ranked], Parts]
) -> FloatArray:
    mean = _means(counts)
    pairs = list(combinations([Ranked.of(values) for values in arrays], 2))
    total = np.zeros((len(counts), arrays[0].shape[1]))
    for pair in pairs:
        xy, xx, yy = (mean(part) for part in parts_of(*pair))
        spread = np.sqrt(np.maximum(xx, 0.0) * np.maximum(yy, 0.0))  # to first order it can fall below 0
        total += np.clip(xy / np.where(spread > NO_SPREAD, spread, np.nan), -1.0, 1.0)
    return total / len(pairs)


def _means(counts: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """From values (K, m) to their means over the rows of each resample."""
    return lambda values: np.asarray(counts @ values / values.shape[0])


def ranking_samples(
    scores: FloatArray, truth: FloatArray, counts: FloatArray, k: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Overlap of the k largest, overlap of the k smallest, and NDCG@k, ranking the resampled rows anew.

    Copies of a row rank next to each other in both orders. Only rows that can be among the k first of a resample
    are looked at, so the cost does not grow with K.
    """
    weights = np.ascontiguousarray(counts.T.astype(np.int32))  # (K, n_boot)
    depth = min(len(scores), int(k + 8 * np.sqrt(k) + 16))  # the copies of so many rows are k at least
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    results = np.empty((3, len(counts), scores.shape[1]))
    for j, (score, target) in enumerate(zip(scores.T, truth.T, strict=True)):
        by_score, by_truth = _Best.of(score, weights, depth, k), _Best.of(target, weights, depth, k)
        worst = [_Best.of(-values, weights, depth, k) for values in (score, target)]
        gain = np.maximum(target, 0.0)
        best = by_truth.gained(gain, discount)
        gained = by_score.gained(gain, discount) / np.where(best > 0, best, np.nan)
        results[:, :, j] = by_score.overlap(by_truth) / k, worst[0].overlap(worst[1]) / k, gained
    return results[0], results[1], results[2]


class _Best:
    """The best ``rows`` (depth,) of one column, and how many of k places are taken before and after each."""

    def __init__(self, rows: NDArray[np.intp], before: NDArray[np.int32], after: NDArray[np.int32]) -> None:
        self.rows, self.before, self.after = rows, before, after

    @classmethod
    def of(cls, values: FloatArray, weights: NDArray[np.int32], depth: int, k: int) -> _Best:
        rows = np.argsort(-values, kind="stable")[:depth]
        places = np.zeros((depth + 1, weights.shape[1]), dtype=np.int32)
        np.minimum(np.cumsum(weights[rows], axis=0, dtype=np.int32), k, out=places[1:])
        return cls(rows, places[:-1], places[1:])

    def overlap(self, other: _Best) -> NDArray[np.int32]:
        """``(n_boot,)`` copies of rows that both take."""
        _, mine, theirs = np.intersect1d(self.rows, other.rows, assume_unique=True, return_indices=True)
        taken = np.minimum((self.after - self.before)[mine], (other.after - other.before)[theirs])
        return np.asarray(taken.sum(axis=0))

    def gained(self, gain: FloatArray, discount: FloatArray) -> FloatArray:
        """``(n_boot,)`` discounted gain of the places."""
        return np.asarray(gain[self.rows] @ (discount[self.after] - discount[self.before]))
