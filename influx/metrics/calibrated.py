"""Intervals around scores that are calibrated on part of the ground truth (split conformal prediction)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.metrics.statistics import FloatArray

BINS = 4096  # of the residuals, for the bootstrap of their quantile
GROUPS = 4096  # rows that the bootstrap draws; of more, as many random groups


@dataclass(frozen=True)
class Calibrated:
    """What calibration found.

    Attributes:
        half: half-width; of a resample too in ``half_samples`` (n_boot,).
        covered: ``(judged rows,)`` share of each row's cells inside.
        trivial: half-width of intervals around the constant that fits best, without any score; in ``trivial_samples``
            (n_boot,) under the same resamples, the constant fixed.
        rows: numbers of rows that fitted a scale, calibrated, and judged.
    """

    half: float
    half_samples: FloatArray
    covered: FloatArray
    trivial: float
    trivial_samples: FloatArray
    rows: tuple[int, int, int]


def calibrate(
    scores: FloatArray,
    truth: FloatArray,
    order: NDArray[np.int64],
    level: float,
    *,
    fitted: bool,
    resamples: NDArray[np.float64],
) -> Calibrated | str:
    """Half the rows calibrate, the others judge. A sentence where too few rows calibrate for the level.

    Args:
        scores: ``(rows, m)`` finite.
        truth: ``(rows, m)`` finite.
        order: ``(rows,)`` a random order of them.
        level: share of cells to be covered.
        fitted: scores have another unit; half of the calibrating rows then fit a straight line first.
        resamples: ``(n_boot, rows)`` random numbers within [0, 1) that draw the calibrating rows; ``GROUPS`` of rows
            at most.
    """
    judged, rest = np.split(order, [len(order) // 2])
    fitting, rest = np.split(rest, [len(rest) // 2]) if fitted else (rest[:0], rest)
    if adjusted(level, len(rest)) > 1:
        return f"level {level:g} needs {math.ceil(level / (1 - level) - 1e-9)} calibrating rows, there are {len(rest)}"
    slope, offset = line(scores[fitting], truth[fitting]) if fitted else (1.0, 0.0)
    residual = np.abs(truth - (slope * scores + offset))
    half = quantile(residual[rest], level)
    plain = np.abs(truth[rest] - float(np.median(truth[rest])))
    drawn = resamples[:, : min(len(rest), GROUPS)]
    return Calibrated(
        half=half,
        half_samples=_resampled(residual[rest], level, drawn),
        covered=(residual[judged] <= half).mean(axis=1),
        trivial=quantile(plain, level),
        trivial_samples=_resampled(plain, level, drawn),
        rows=(len(fitting), len(rest), len(judged)),
    )


def line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Slope and offset of least squares over all cells; slope 0 where ``x`` is constant."""
    centred = x - x.mean()
    spread = float((centred * centred).sum())
    slope = float((centred * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def adjusted(level: float, rows: int) -> float:
    """``level`` (K + 1) / K for K exchangeable rows: the next one counts as if it were among them (above 1: too few).

    Cells of one row depend on each other, so that rows count and not cells.
    """
    return level * (rows + 1) / rows if rows else math.inf


def quantile(residual: FloatArray, level: float) -> float:
    """The number that a share ``adjusted`` of the cells of ``residual`` (K, m) does not exceed.

    In expectation a share ``level`` of the cells of the next exchangeable row are within: the same quantile of all
    K + 1 rows is no larger, and every row has the same part in it.
    """
    flat = residual.ravel()
    place = min(int(np.ceil(flat.size * adjusted(level, len(residual)) - 1e-9)), flat.size) - 1
    return float(np.partition(flat, place)[place])


def _resampled(residual: FloatArray, level: float, drawn: NDArray[np.float64]) -> FloatArray:
    """``(n_boot,)`` the quantile when rows (in random order), or groups of them, are resampled.

    Up to the width of a bin where there are many cells.
    """
    edges = np.unique(residual if residual.size <= BINS else np.quantile(residual, np.linspace(0, 1, BINS)))
    bins = np.searchsorted(edges, residual)  # residual <= edges[bins]
    groups = drawn.shape[1]
    counts = np.zeros((groups, len(edges)))
    for row, places in zip(counts, np.array_split(bins, groups), strict=True):
        row[:] = np.bincount(places.ravel(), minlength=len(edges))
    chosen = np.floor(drawn * groups).astype(np.int64)
    weights = np.zeros((len(drawn), groups))
    for row, picked in zip(weights, chosen, strict=True):
        row[:] = np.bincount(picked, minlength=groups)
    below = np.cumsum(weights @ counts, axis=1)
    wanted = adjusted(level, len(residual)) * below[:, -1:]
    return np.asarray(edges[(below < wanted).sum(axis=1).clip(max=len(edges) - 1)])
