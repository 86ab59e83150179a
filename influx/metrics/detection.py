"""How well a score finds flagged instances: AUROC, average precision, recall, with a stratified bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.metrics.statistics import FloatArray, counts_of, resample

BLOCK = 4_000_000  # cells of the (n, resamples) tables held at once


@dataclass(frozen=True)
class Detection:
    """Numbers per set of weights, each ``(n_boot,)``.

    ``auroc``: probability that a flagged instance scores above a clean one, ties counting half.
    ``average_precision``: Σ over distinct scores of precision times gain in recall, without interpolation.
    ``recall``: share of flagged instances among as many top scores as there are flagged ones, ties by row index.
    ``area``: under the curve of the share of flagged instances found over the share of instances inspected, ties
        counting half; with a share ρ flagged it is ρ/2 + (1 - ρ) AUROC, at most 1 - ρ/2, and 0.5 by chance.
    ``found``: ``(n_boot, shares)`` points of that curve, ties by row index.
    """

    auroc: FloatArray
    average_precision: FloatArray
    recall: FloatArray
    area: FloatArray
    found: FloatArray


def detect(
    scores: NDArray[np.float64], flags: NDArray[np.bool_], counts: FloatArray, shares: Sequence[float] = ()
) -> Detection:
    """Detection of ``flags`` (n,) by high ``scores`` (n,) in each resample of ``counts`` (n_boot, n).

    ``shares`` of instances inspected, from 0 to 1, are where the inspection curve is read.
    """
    step = max(1, BLOCK // len(scores))
    blocks = [_detect(scores, flags, counts[start : start + step], shares) for start in range(0, len(counts), step)]
    return Detection(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def stratified_counts(flags: NDArray[np.bool_], n_boot: int, rng: np.random.Generator) -> FloatArray:
    """``(n_boot, n)`` counts of a bootstrap that resamples flagged and clean instances apart."""
    counts = np.empty((n_boot, len(flags)))
    for group in (flags, ~flags):
        counts[:, group] = counts_of(resample(rng, int(group.sum()), n_boot))
    return counts


def _detect(
    scores: NDArray[np.float64], flags: NDArray[np.bool_], counts: FloatArray, shares: Sequence[float]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    order = np.argsort(-scores, kind="stable")
    weights, flagged = counts.T[order], flags[order]  # (n, n_boot), (n,), best first
    left, right = (np.searchsorted(-scores[order], -scores[order], side=side) for side in ("left", "right"))
    everything = _running(weights)
    hits = _running(weights * flagged[:, None])
    total, size = hits[-1], everything[-1]
    above = (hits[left] + hits[right])[~flagged] / 2  # flagged weight above each clean instance
    auroc = (weights[~flagged] * above).sum(axis=0) / (total * (size - total))
    reached = everything[right][flagged]
    precision = hits[right][flagged] / np.where(reached > 0, reached, 1.0)
    average = (weights[flagged] * precision).sum(axis=0) / total
    taken = np.clip(total - everything[:-1], 0.0, weights)  # within the budget of `total` instances
    recall = taken[flagged].sum(axis=0) / total
    area = total / size / 2 + (1 - total / size) * auroc
    found = np.empty((len(counts), len(shares)))
    for row, inspected, caught in zip(found, everything.T, hits.T, strict=True):
        row[:] = np.interp(np.asarray(shares) * inspected[-1], inspected, caught) / caught[-1]
    return auroc, average, recall, area, found


def _running(weights: FloatArray) -> FloatArray:
    """Cumulative sums down the rows, with a leading row of zeros."""
    return np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights, axis=0)])
