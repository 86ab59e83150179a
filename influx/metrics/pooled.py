"""Agreement pooled over all cells of the matrix; its uncertainty comes from resampling test instances (columns).

A resample draws columns. Recomputing ranks and pairs in each would cost a sort of all cells per resample, so the
resampled moments are those of the data plus their first-order change, to which every cell adds its own part (the
Hájek projection). Sums of these parts per column are all that the bootstrap needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from influx.metrics.statistics import FloatArray

EXACT_CELLS = 1_000_000  # beyond, Kendall's tau-b is estimated
SAMPLED_PAIRS = 4_000_000  # standard error at most 0.0005
MAX_BINS = 1024  # per axis, for the interval of Kendall's tau-b


@dataclass(frozen=True)
class Pooled:
    """A number over all cells and the same number in each resample of columns (n_boot,)."""

    value: float
    samples: FloatArray
    note: str = ""


def pearson_and_slope(scores: FloatArray, truth: FloatArray, counts: FloatArray) -> tuple[Pooled, Pooled]:
    """Pearson correlation, and the least-squares slope of truth on score.

    ``scores`` and ``truth`` are (n, m), ``counts`` (n_boot, m) says how often a column is in a resample. Here
    resampling is exact: the sums of a resample are weighted sums over columns.
    """
    (x, unit_x), (y, unit_y) = _normalised(scores), _normalised(truth)
    moments = np.stack([part.sum(axis=0) for part in (np.ones_like(x), x, y, x * x, x * y, y * y)])  # (6, m)
    weights = np.vstack([np.ones(counts.shape[1]), counts])  # the first resample is the data itself
    size, sx, sy, sxx, sxy, syy = moments @ weights.T
    xx, xy, yy = sxx - sx * sx / size, sxy - sx * sy / size, syy - sy * sy / size
    correlation = np.clip(_ratio(xy, xx, yy), -1.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample without spread is NaN, on purpose
        slope = xy / xx * (unit_y / unit_x)
    return Pooled(float(correlation[0]), correlation[1:]), Pooled(float(slope[0]), slope[1:])


def spearman_and_kendall(
    scores: FloatArray, truth: FloatArray, counts: FloatArray, rng: np.random.Generator
) -> tuple[Pooled, Pooled]:
    """Spearman correlation and Kendall's tau-b over all cells; arguments as for ``pearson_and_slope``.

    ``rng`` draws the pairs of cells from which tau-b is estimated when there are more than ``EXACT_CELLS``.
    """
    x, y = Ranked.of(scores.ravel()), Ranked.of(truth.ravel())
    return _spearman(x, y, counts), _kendall(scores.ravel(), truth.ravel(), x, y, counts, rng)


@dataclass(frozen=True)
class Ranked:
    """N values: centred relative ranks in (-1/2, 1/2), sorted order, and the bounds of each value's group of ties."""

    rank: FloatArray
    order: NDArray[np.intp]
    left: NDArray[np.intp]
    right: NDArray[np.intp]

    @classmethod
    def of(cls, values: FloatArray) -> Ranked:
        """Rank a flat array."""
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        bounds = np.append(starts, values.size)
        group = np.empty(values.size, dtype=np.intp)
        group[order] = np.repeat(np.arange(starts.size), np.diff(bounds))
        left, right = bounds[group], bounds[group + 1]
        return cls((left + right) / (2 * values.size) - 0.5, order, left, right)

    def mean_above(self, other: FloatArray) -> FloatArray:
        """For each v: mean over all u of ``other[u]`` where u ranks above v, ties counting half."""
        total = np.concatenate([[0.0], np.cumsum(other[self.order])])
        return np.asarray((total[-1] - (total[self.left] + total[self.right]) / 2) / other.size)


def _normalised(values: FloatArray) -> tuple[FloatArray, float]:
    """Values centred and divided by their largest magnitude, against cancellation, and that magnitude."""
    centred = values - values.mean()
    unit = float(np.abs(centred).max()) or 1.0
    return centred / unit, unit


def _ratio(xy: FloatArray, xx: FloatArray, yy: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(xy / np.sqrt(xx * yy))


def _per_resample(parts: FloatArray, counts: FloatArray) -> FloatArray:
    """Mean of the parts (n·m,) over the cells of each resample (n_boot,)."""
    return np.asarray(counts @ parts.reshape(-1, counts.shape[1]).mean(axis=0) / counts.sum(axis=1))


def _spearman(x: Ranked, y: Ranked, counts: FloatArray) -> Pooled:
    moments, resampled = [], []
    for a, b in ((x, y), (x, x), (y, y)):
        parts = a.rank * b.rank + a.mean_above(b.rank) + b.mean_above(a.rank)  # itself, and through others' ranks
        moments.append(np.asarray((a.rank * b.rank).mean()))
        resampled.append(_per_resample(parts, counts) - (parts.mean() - moments[-1]))
    value = np.clip(_ratio(*moments), -1.0, 1.0)
    return Pooled(float(value), np.clip(_ratio(*resampled), -1.0, 1.0))


def _kendall(
    scores: FloatArray, truth: FloatArray, x: Ranked, y: Ranked, counts: FloatArray, rng: np.random.Generator
) -> Pooled:
    size, note = scores.size, ""
    if size <= EXACT_CELLS:
        value = float(stats.kendalltau(scores, truth).statistic)
    else:
        value = _tau_from_pairs(scores, truth, rng)
        note = f"tau-b estimated from {SAMPLED_PAIRS} random pairs of {size} cells"
    untied = [1 - (one.right - one.left) / size for one in (x, y)]
    moments, resampled = [], []
    for parts in (_concordance(x, y), *untied):
        moments.append(np.asarray(parts.mean()))
        resampled.append(2 * _per_resample(parts, counts) - moments[-1])  # a pair has two ends
    samples = _ratio(*resampled) + (value - float(_ratio(*moments)))
    return Pooled(value, np.clip(samples, -1.0, 1.0), note)


def _concordance(x: Ranked, y: Ranked) -> FloatArray:
    """For each cell v: mean over cells u of sign(x_v - x_u) · sign(y_v - y_u), on ranks rounded to bins.

    With a = (1 + sign) / 2, E[sign · sign] = 4 E[a_x a_y] - 2 E[a_x] - 2 E[a_y] + 1, and E[a_x a_y] is the joint
    distribution function, ties counting half: two running sums over a histogram.
    """
    bins = min(MAX_BINS, int(8 * np.sqrt(x.rank.size)))
    rows, columns = (((one.rank + 0.5) * bins).astype(np.intp) for one in (x, y))
    joint = np.bincount(rows * bins + columns, minlength=bins * bins).reshape(bins, bins) / rows.size
    for axis in (0, 1):
        joint = np.cumsum(joint, axis=axis) - joint / 2
    return np.asarray(4 * joint[rows, columns] - 2 * (x.rank + y.rank) - 1)


def _tau_from_pairs(scores: FloatArray, truth: FloatArray, rng: np.random.Generator) -> float:
    one, two = rng.integers(scores.size, size=(2, SAMPLED_PAIRS))
    one, two = one[one != two], two[one != two]
    sign_x, sign_y = np.sign(scores[one] - scores[two]), np.sign(truth[one] - truth[two])
    return float(_ratio((sign_x * sign_y).sum(), np.abs(sign_x).sum(), np.abs(sign_y).sum()))
