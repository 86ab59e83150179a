"""Regressions of the risks of retrained models on which instances they were trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from influx.engines.regressions import Features, Sample
from influx.engines.risk_sums import Array
from influx.engines.risks import Target
from influx.engines.sampled import blocks
from influx.problem import Design

if TYPE_CHECKING:
    from influx.run import Run


def regression_of(
    run: Run,
    design: Design,
    target: Target,
    label: str,
    *,
    features: Features | None = None,
    strata: NDArray[np.int64] | None = None,
    own: bool = False,
) -> Sample:
    """Outcomes: the risk of each test instance, their mean and, with ``own``, the risk of each training instance.

    ``features`` are those of the models; None means 1 for instances in the subset and 0 for the others.
    """
    masks = design.weights

    def read(rows: slice) -> Iterator[tuple[NDArray[np.int64], Array]]:
        for part, tests, train in blocks(run, design.rows(rows), target, label):
            columns = [tests, tests.mean(axis=1, keepdims=True), *([train] if own else [])]
            yield rows.start + part, np.concatenate(columns, axis=1)

    return Sample(
        features=features or (lambda rows: masks[rows].astype(np.float64)),
        read=read,
        strata=np.zeros(len(design), np.int64) if strata is None else strata,
    )


def rank_correlations(predicted: Array, observed: Array) -> Array:
    """``(c,)`` Spearman correlation over models, by column: 0 for a constant prediction, NaN for a constant outcome."""
    from scipy.stats import rankdata

    left, right = (rankdata(values, axis=0) for values in (predicted, observed))
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    size = np.sqrt((left**2).sum(axis=0) * (right**2).sum(axis=0))
    found = (left * right).sum(axis=0) / np.where(size > 0, size, 1)
    return np.asarray(np.where((right != 0).any(axis=0), found, np.nan))
