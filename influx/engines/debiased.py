"""Effects without the bias of a penalised fit: what is known of the design corrects slopes fitted on other models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.engines.regressions import Array, Centres, Features, Products, Sample, products


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What the draw of subsets tells of the effects of instances, whatever the outcome is.

    Attributes:
        weigh: 1 / p for instances in a subset drawn with probability p, and -1 / (1 - p) for the others: its mean
            product with an outcome is the effect of an instance on it at that p.
        product: ``(groups,)`` its mean product with the feature.
        group: ``(models,)`` the place of each subset's p; effects are averaged over groups.
    """

    weigh: Features
    product: Array
    group: NDArray[np.int64]


def debiased(
    sample: Sample,
    centre: Centres,
    sums: Products,
    folds: list[slice],
    fit: Callable[[Products], Array],
    known: Effects,
) -> tuple[Array, Array]:
    """Effects (n, c) without the bias of ``fit``, and their standard errors.

    To the slopes fitted without a fold, the mean product of ``known.weigh`` with the fold's residuals adds what they
    lack. Each model gives an unbiased effect, whatever the slopes are; the standard error is that of the mean of these.
    """
    sizes, counts = np.bincount(sample.strata), np.bincount(known.group).astype(np.float64)[:, None, None]
    first, second = np.zeros((2, len(counts), *sums.xy.shape))
    for fold in folds:
        slopes = fit(sums - products(sample, centre, fold))
        for rows, outcomes in sample.read(fold):
            x, y = centre.of(sample, rows, outcomes)
            some = sizes[sample.strata[rows]]  # less its own part of the mean
            residual, weigh = (y - x @ slopes) * (some / np.maximum(some - 1, 1))[:, None], known.weigh(rows)
            for number in range(len(counts)):
                which = known.group[rows] == number
                known_part, r, w = known.product[number] * slopes, residual[which], weigh[which]
                lacking = w.T @ r
                first[number] += lacking + which.sum() * known_part
                second[number] += (w**2).T @ r**2 + 2 * known_part * lacking + which.sum() * known_part**2
    square = np.maximum(second - first**2 / counts, 0) / np.maximum(counts - 1, 1) / counts
    return (first / counts).mean(axis=0), np.sqrt(square.sum(axis=0)) / len(counts)
