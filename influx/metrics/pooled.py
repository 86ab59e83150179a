"""Agreement pooled over all cells of the matrix; its uncertainty comes from resampling test instances (columns).

Where only some training instances are compared, these (rows) are resampled too. A cell then weighs as often as its
row times as often as its column; sums of parts per row and column are all that the bootstrap needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from influx.metrics.projections import Parts, Ranked, kendall_parts, ratio, spearman_parts
from influx.metrics.statistics import FloatArray

EXACT_CELLS = 1_000_000  # beyond, Kendall's tau-b is estimated
SAMPLED_PAIRS = 4_000_000  # standard error at most 0.0005


@dataclass(frozen=True)
class Pooled:
    """A number over all cells and the same number in each resample (n_boot,)."""

    value: float
    samples: FloatArray
    note: str = ""


def pearson_and_slope(
    scores: FloatArray, truth: FloatArray, counts: FloatArray, rows: FloatArray | None = None
) -> tuple[Pooled, Pooled]:
    """Pearson correlation, and the least-squares slope of truth on score.

    ``scores`` and ``truth`` are (n, m), ``counts`` (n_boot, m) says how often a column is in a resample, ``rows``
    (n_boot, n) how often a row (None: once). Here resampling is exact: the sums of a resample are weighted sums.
    """
    (x, unit_x), (y, unit_y) = _normalised(scores), _normalised(truth)
    products = (x, y, x * x, x * y, y * y)
    sx, sy, sxx, sxy, syy = _per_resample(products, counts, rows)
    xx, xy, yy = sxx - sx * sx, sxy - sx * sy, syy - sy * sy
    correlation = np.clip(ratio(xy, xx, yy), -1.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample without spread is NaN, on purpose
        slope = xy / xx * (unit_y / unit_x)
    return Pooled(float(correlation[0]), correlation[1:]), Pooled(float(slope[0]), slope[1:])


def spearman_and_kendall(
    scores: FloatArray,
    truth: FloatArray,
    counts: FloatArray,
    rng: np.random.Generator,
    rows: FloatArray | None = None,
) -> tuple[Pooled, Pooled]:
    """Spearman correlation and Kendall's tau-b over all cells; arguments as for ``pearson_and_slope``.

    ``rng`` draws the pairs of cells from which tau-b is estimated when there are more than ``EXACT_CELLS``.
    """
    x, y = (Ranked.of(values.reshape(-1, 1)) for values in (scores, truth))
    spearman = _ratios(spearman_parts(x, y), counts, rows)
    tau = _ratios(kendall_parts(x, y), counts, rows)
    value, note = _tau(scores.ravel(), truth.ravel(), rng)
    samples = np.clip(tau[1:] + (value - tau[0]), -1.0, 1.0)
    return Pooled(float(np.clip(spearman[0], -1.0, 1.0)), np.clip(spearman[1:], -1.0, 1.0)), Pooled(
        value, samples, note
    )


def _normalised(values: FloatArray) -> tuple[FloatArray, float]:
    """Values centred and divided by their largest magnitude, against cancellation, and that magnitude."""
    centred = values - values.mean()
    unit = float(np.abs(centred).max()) or 1.0
    return centred / unit, unit


def _ratios(parts: Parts, counts: FloatArray, rows: FloatArray | None) -> FloatArray:
    """``(1 + n_boot,)`` correlations of the data and of its resamples, from parts of the cells (n·m, 1)."""
    m = counts.shape[1]
    return ratio(*_per_resample([part.reshape(-1, m) for part in parts], counts, rows))


def _per_resample(parts: Sequence[FloatArray], counts: FloatArray, rows: FloatArray | None) -> FloatArray:
    """Means of each of the parts (n, m) over all cells and over those of each resample: (parts, 1 + n_boot)."""
    result = np.empty((len(parts), 1 + len(counts)))
    for into, part in zip(result, parts, strict=True):
        per_column = part.mean(axis=0)
        into[0] = per_column.mean()
        if rows is not None:
            per_column = rows @ part / len(part)  # (n_boot, m)
        into[1:] = (counts * per_column).sum(axis=1) / counts.sum(axis=1)
    return result


def _tau(scores: FloatArray, truth: FloatArray, rng: np.random.Generator) -> tuple[float, str]:
    """Tau-b over all cells, and a note if it is estimated."""
    if scores.size <= EXACT_CELLS:
        return float(stats.kendalltau(scores, truth).statistic), ""
    note = f"tau-b estimated from {SAMPLED_PAIRS} random pairs of {scores.size} cells"
    return _tau_from_pairs(scores, truth, rng), note


def _tau_from_pairs(scores: FloatArray, truth: FloatArray, rng: np.random.Generator) -> float:
    one, two = rng.integers(scores.size, size=(2, SAMPLED_PAIRS))
    one, two = one[one != two], two[one != two]
    sign_x, sign_y = np.sign(scores[one] - scores[two]), np.sign(truth[one] - truth[two])
    return float(ratio((sign_x * sign_y).sum(), np.abs(sign_x).sum(), np.abs(sign_y).sum()))
