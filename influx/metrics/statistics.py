"""Statistics shared by the metrics: ranks, correlations per column, bootstrap intervals. All in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from influx.engines.rounding import constant_columns as constant_columns
from influx.engines.rounding import rounding as rounding
from influx.errors import ConfigError

FloatArray = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95
MIN_RESAMPLES = 100


def check_resamples(setting: str, n_boot: int) -> None:
    """Refuse too few resamples for a 95% percentile interval.

    Raises:
        ConfigError: fewer than ``MIN_RESAMPLES``.
    """
    if n_boot < MIN_RESAMPLES:
        raise ConfigError(f"{setting} must be at least {MIN_RESAMPLES}, got {n_boot}; 1000 is the default")


def ranks(values: NDArray[Any]) -> FloatArray:
    """Ranks 1..n down each column; ties share their average."""
    return np.asarray(stats.rankdata(values, axis=0), dtype=np.float64)


def standardise(values: NDArray[Any]) -> FloatArray:
    """Columns with mean 0 and unit Euclidean norm; a constant column becomes NaN."""
    centred = np.asarray(values, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    largest = np.abs(centred).max(axis=0)
    scaled = centred / np.where(largest > 0, largest, np.nan)  # squares of 1e-200 would vanish
    return np.asarray(scaled / np.sqrt((scaled * scaled).sum(axis=0)))


def pearson_columns(left: NDArray[Any], right: NDArray[Any]) -> FloatArray:
    """Pearson correlation of each column of ``left`` with that of ``right``, both (n, m); NaN where constant."""
    return np.asarray(np.clip((standardise(left) * standardise(right)).sum(axis=0), -1.0, 1.0))


def spearman_columns(left: NDArray[Any], right: NDArray[Any]) -> FloatArray:
    """Spearman correlation column by column."""
    return pearson_columns(ranks(left), ranks(right))


def kendall_columns(left: NDArray[Any], right: NDArray[Any]) -> FloatArray:
    """Kendall's tau-b column by column."""
    pairs = zip(left.T, right.T, strict=True)
    return np.array([stats.kendalltau(a, b).statistic for a, b in pairs], dtype=np.float64)


def mean_pairwise(standardised: FloatArray) -> FloatArray:
    """Mean correlation over all pairs among R arrays, ``(R, n, m)`` from ``standardise`` → ``(m,)``.

    Uses |Σ_r z_r|² = R + 2 Σ_{r<s} ⟨z_r, z_s⟩ for unit vectors.
    """
    count = len(standardised)
    total = standardised.sum(axis=0)
    return np.asarray(((total * total).sum(axis=0) - count) / (count * (count - 1)))


def spearman_brown(correlation: NDArray[np.float64] | float, count: int) -> FloatArray:
    """Reliability of the mean of ``count`` repetitions that correlate pairwise by ``correlation``.

    k r / (1 + (k - 1) r); a negative correlation counts as reliability 0, since a share of variance cannot be
    negative.
    """
    r = np.maximum(np.asarray(correlation, dtype=np.float64), 0.0)
    return np.asarray(count * r / (1 + (count - 1) * r))


def resample(rng: np.random.Generator, size: int, n_boot: int) -> NDArray[np.int64]:
    """``(n_boot, size)`` indices drawn with replacement."""
    return rng.integers(size, size=(n_boot, size))


def counts_of(indices: NDArray[np.int64]) -> FloatArray:
    """How often each of ``size`` elements is in each resample: (n_boot, size) indices → (n_boot, size) counts."""
    n_boot, size = indices.shape
    shifted = indices + size * np.arange(n_boot)[:, None]
    return np.bincount(shifted.ravel(), minlength=n_boot * size).reshape(n_boot, size).astype(np.float64)


def weighted_mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean of each row of ``values`` (n_boot, m) over its finite entries."""
    finite = np.isfinite(values)
    total = np.where(finite, weights, 0.0)
    size = total.sum(axis=1)
    return np.asarray((np.where(finite, values, 0.0) * total).sum(axis=1) / np.where(size > 0, size, np.nan))


def interval(samples: NDArray[Any]) -> Interval:
    """Percentile interval; resamples in which the statistic is undefined are NaN and do not count."""
    finite = np.asarray(samples)[np.isfinite(samples)]
    if not finite.size:
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
