"""Rank correlation in every bootstrap resample of the rows, with ranks taken anew."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influx.metrics.statistics import FloatArray


def resampled_spearman(arrays: FloatArray, counts: FloatArray) -> FloatArray:
    """Mean pairwise Spearman correlation of R arrays, per column and resample.

    Args:
        arrays: ``(R, K, m)``, R of at least 2.
        counts: ``(n_boot, K)`` how often a row is in a resample.

    Returns:
        ``(n_boot, m)``; NaN where a resample leaves an array constant.
    """
    weights = np.ascontiguousarray(counts.T)  # (K, n_boot): rows are gathered, so resamples are contiguous
    repeats = len(arrays)
    result = np.empty((counts.shape[0], arrays.shape[2]))
    for column in range(arrays.shape[2]):
        total = np.zeros_like(weights)
        for values in arrays[:, :, column]:
            total += _unit_ranks(values, weights)
        squares = np.einsum("kb,kb,kb->b", weights, total, total)
        result[:, column] = (squares - repeats) / (repeats * (repeats - 1))
    return result


def _unit_ranks(values: NDArray[np.float64], weights: FloatArray) -> FloatArray:
    """``(K, n_boot)`` average ranks within each resample, centred and of unit weighted norm.

    Twice the average rank of a value, minus one, is the weight below it plus the weight up to and including it.
    """
    order = np.argsort(values, kind="stable")
    below = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights[order], axis=0)])
    left, right = (np.searchsorted(values[order], values, side=side) for side in ("left", "right"))
    centred = below[left] + below[right] - below[-1]
    norm = np.sqrt(np.einsum("kb,kb,kb->b", weights, centred, centred))
    return np.asarray(centred / np.where(norm > 0, norm, np.nan))
