"""How well a score finds flagged instances: AUROC, average precision, recall, with a stratified bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.metrics.statistics import FloatArray, counts_of, interval, resample

BLOCK = 4_000_000  # cells of the (n, resamples) tables held at once
TABLES = 10.0  # such tables, with their draws
MIN_GROUP = 5  # resamples of fewer instances say little of others


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


def resampled(
    scores: NDArray[np.float64],
    flags: NDArray[np.bool_],
    n_boot: int,
    rng: np.random.Generator,
    shares: Sequence[float] = (),
) -> Detection:
    """Detection in the data itself, which comes first, and in ``n_boot`` stratified resamples, drawn block by block."""
    step = max(1, BLOCK // len(flags))
    blocks = [detect(scores, flags, np.ones((1, len(flags))), shares)]
    for start in range(0, n_boot, step):
        blocks.append(detect(scores, flags, stratified_counts(flags, min(step, n_boot - start), rng), shares))
    return Detection(
        *(np.concatenate(parts) for parts in zip(*(vars(block).values() for block in blocks), strict=True))
    )


def held(n: int, n_boot: int) -> float:
    """Bytes that ``resampled`` holds at once."""
    return 8.0 * TABLES * max(min(n_boot * n, BLOCK), n)


def moved(samples: FloatArray) -> FloatArray:
    """``resampled`` average precision, moved by the mean difference of the resamples from the data, the first.

    Resamples repeat instances. Copies of a flagged instance share their rank, which raises average precision.
    """
    return np.concatenate([samples[:1], np.clip(samples[1:] + (samples[0] - samples[1:].mean()), 0.0, 1.0)])


def stratified_interval(samples: FloatArray, flags: NDArray[np.bool_], kind: str) -> tuple[float, float, str]:
    """Percentile interval of ``resampled`` numbers, or none (NaN) and why, for fewer than ``MIN_GROUP`` of a group.

    ``kind`` says what the flagged instances are.
    """
    size = int(flags.sum())
    for count, what in ((size, kind), (len(flags) - size, "others")):
        if count < MIN_GROUP:
            return np.nan, np.nan, f"no interval from {count} {what}"
    return *interval(samples[1:]), ""


def chance_ap(n: int, flagged: int) -> float:
    """Expected average precision of a random ranking of ``n`` instances.

    With H_n = Σ 1/r: Σ_r (1/n) E[precision at r | a flagged one at r] = (H_n + (k - 1) (n - H_n) / (n - 1)) / n, more
    than the share k/n.
    """
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (flagged - 1) / max(n - 1, 1) * (n - harmonic)) / n


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
