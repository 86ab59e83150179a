"""Intervals around scores that are calibrated on part of the ground truth (split conformal prediction)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.metrics.statistics import FloatArray

BINS = 4096  # of the residuals, for the bootstrap of their quantile


@dataclass(frozen=True)
class Calibrated:
    """What calibration found.

    Attributes:
        half: half-width; of a resample too in ``half_samples`` (n_boot,).
        covered: ``(judged rows,)`` share of each row's cells inside.
        trivial: half-width of intervals around the constant that fits best, without any score.
        rows: numbers of rows that fitted a scale, calibrated, and judged.
    """

    half: float
    half_samples: FloatArray
    covered: FloatArray
    trivial: float
    rows: tuple[int, int, int]


def calibrate(
    scores: FloatArray,
    truth: FloatArray,
    order: NDArray[np.int64],
    level: float,
    *,
    fitted: bool,
    resamples: NDArray[np.float64],
) -> Calibrated:
    """Half the rows calibrate, the others judge.

    Args:
        scores: ``(rows, m)`` finite.
        truth: ``(rows, m)`` finite.
        order: ``(rows,)`` a random order of them.
        level: share of cells to be covered.
        fitted: scores have another unit; half of the calibrating rows then fit a straight line first.
        resamples: ``(n_boot, rows)`` random numbers within [0, 1) that draw the calibrating rows.
    """
    judged, rest = np.split(order, [len(order) // 2])
    fitting, rest = np.split(rest, [len(rest) // 2]) if fitted else (rest[:0], rest)
    slope, offset = line(scores[fitting], truth[fitting]) if fitted else (1.0, 0.0)
    residual = np.abs(truth - (slope * scores + offset))
    half = quantile(residual[rest], level)
    centre = float(np.median(truth[rest]))
    return Calibrated(
        half=half,
        half_samples=_resampled(residual[rest], level, resamples[:, : len(rest)]),
        covered=(residual[judged] <= half).mean(axis=1),
        trivial=quantile(np.abs(truth[rest] - centre), level),
        rows=(len(fitting), len(rest), len(judged)),
    )


def line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Slope and offset of least squares over all cells; slope 0 where ``x`` is constant."""
    centred = x - x.mean()
    spread = float((centred * centred).sum())
    slope = float((centred * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def quantile(residual: FloatArray, level: float) -> float:
    """The ⌈(N + 1) level⌉-th smallest of N numbers: covers the next exchangeable one with probability ``level``."""
    flat = residual.ravel()
    place = min(int(np.ceil((flat.size + 1) * level - 1e-9)), flat.size) - 1
    return float(np.partition(flat, place)[place])


def _resampled(residual: FloatArray, level: float, drawn: NDArray[np.float64]) -> FloatArray:
    """``(n_boot,)`` the quantile when rows are resampled, up to the width of a bin."""
    edges = np.unique(np.quantile(residual, np.linspace(0, 1, BINS)))
    bins = np.searchsorted(edges, residual)  # residual <= edges[bins]
    counts = np.zeros((len(residual), len(edges)))
    for row, places in zip(counts, bins, strict=True):
        row[:] = np.bincount(places, minlength=len(edges))
    chosen = np.floor(drawn * len(residual)).astype(np.int64)
    weights = np.zeros((len(drawn), len(residual)))
    for row, picked in zip(weights, chosen, strict=True):
        row[:] = np.bincount(picked, minlength=len(residual))
    below = np.cumsum(weights @ counts, axis=1)
    return np.asarray(edges[(below < level * residual.size).sum(axis=1).clip(max=len(edges) - 1)])
