"""Scores that tell members of a model's training set from others, and how well scores do so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.metrics.detection import detect
from influx.metrics.statistics import FloatArray

LEAST_VARIANCE = 1e-12
BLOCK = 4_000_000  # cells of the (scores, resamples) tables held at once


@dataclass(frozen=True)
class Told:
    """How well scores tell members apart, in each resample: ``auroc`` and ``tpr`` at a false positive rate, (B,)."""

    auroc: FloatArray
    tpr: FloatArray


def lira(margins: NDArray[np.float64], inside: NDArray[np.bool_], targets: NDArray[np.int64]) -> FloatArray:
    """Log likelihood ratio of being a member, by the margins of the other models (Carlini et al. 2022, algorithm 1).

    Args:
        margins: ``(K, n)`` log p / (1 - p) of every instance's label under every model.
        inside: ``(K, n)`` whether the model was trained on the instance.
        targets: ``(T,)`` models that are attacked; each is scored without its own margins.

    Returns:
        ``(T, n)``, high for members. Means are of the instance, variances of all instances together: the attack's
        choice where models are few.
    """
    centre = margins.mean(axis=0)  # differences of large sums would lose digits
    moved = margins - centre
    found = np.empty((len(targets), margins.shape[1]))
    for row, target in zip(found, targets.tolist(), strict=True):
        others = np.arange(len(margins)) != target
        seen = moved[others]
        terms = []
        for side in (inside[others], ~inside[others]):
            count = side.sum(axis=0)
            mean = (seen * side).sum(axis=0) / count
            freedom = count.sum() - len(count)
            variance = max(float((side * (seen - mean) ** 2).sum() / freedom), LEAST_VARIANCE)
            terms.append(-0.5 * np.log(variance) - (moved[target] - mean) ** 2 / (2 * variance))
        row[:] = terms[0] - terms[1]
    return found


def separation(margins: NDArray[np.float64], inside: NDArray[np.bool_]) -> FloatArray:
    """``(n,)`` how far an instance's margin under models trained on it exceeds that under others, in deviations.

    The d′ of the attack: mean difference over √((var_in + var_out) / 2) of the instance itself.
    """
    found = []
    for side in (inside, ~inside):
        count = side.sum(axis=0)
        mean = (margins * side).sum(axis=0) / count
        found.append((mean, ((margins - mean) ** 2 * side).sum(axis=0) / (count - 1)))
    (mean_in, var_in), (mean_out, var_out) = found
    return np.asarray((mean_in - mean_out) / np.sqrt(np.maximum((var_in + var_out) / 2, LEAST_VARIANCE)))


def told(scores: NDArray[np.float64], member: NDArray[np.bool_], counts: FloatArray, rate: float) -> Told:
    """AUROC and true positive rate at false positive rate ``rate`` of pooled scores.

    Args:
        scores: ``(T, n)`` per attacked model and instance.
        member: ``(T, n)``.
        counts: ``(B, n)`` how often an instance is in a resample; it takes its scores under all models along.
        rate: at most this share of others is called members, by one threshold for all models.
    """
    flat, flags = scores.ravel(), member.ravel()
    step = max(1, BLOCK // flat.size)
    auroc, tpr = [], []
    for start in range(0, len(counts), step):
        weights = np.tile(counts[start : start + step], (1, len(scores)))
        auroc.append(detect(flat, flags, weights).auroc)
        tpr.append(_tpr(flat, flags, weights, rate))
    return Told(np.concatenate(auroc), np.concatenate(tpr))


def _tpr(scores: NDArray[np.float64], member: NDArray[np.bool_], weights: FloatArray, rate: float) -> FloatArray:
    """``(B,)`` largest true positive rate of a threshold whose false positive rate is at most ``rate``."""
    order = np.argsort(-scores, kind="stable")
    last = np.searchsorted(-scores[order], np.unique(-scores), side="right") - 1  # a threshold keeps ties together
    sides = []
    for side in (member, ~member):
        total = np.cumsum(weights[:, order] * side[order], axis=1)
        sides.append(total[:, last] / total[:, -1:])
    caught, wrong = sides
    return np.asarray(np.where(wrong <= rate + 1e-12, caught, 0.0).max(axis=1))
