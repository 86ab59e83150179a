"""Estimate against truth, thinned for drawing: a sample of pairs and one Spearman correlation per test instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from influx.streams import stream

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

POINTS = 3000
TESTS = 500


def sampled_pairs(record: RunRecord, points: int = POINTS) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most ``points`` pairs (truth, estimate), drawn evenly over the cells where the truth is known."""
    rows, n_test = record.truth_rows, record.influence.shape[1]
    if record.truth is None or not len(rows) or not n_test:
        return np.empty(0), np.empty(0)
    cells = len(rows) * n_test
    # A regular stride could fall on one test instance for ever, so the cells are drawn; always the same ones.
    drawn = np.sort(stream(0, "report/scatter").choice(cells, size=min(points, cells), replace=False))
    i, j = rows[drawn // n_test], drawn % n_test
    truth, estimate = record.truth[i, j].astype(np.float64), record.influence[i, j].astype(np.float64)
    known = np.isfinite(truth) & np.isfinite(estimate)
    return truth[known], estimate[known]


def spearman_per_test(record: RunRecord, tests: int = TESTS) -> tuple[NDArray[np.float64], int]:
    """Spearman correlation with the truth of at most ``tests`` evenly spaced test instances.

    Returns:
        The defined correlations, and the number of test instances looked at.
    """
    from scipy.stats import rankdata

    rows, n_test = record.truth_rows, record.influence.shape[1]
    if record.truth is None or len(rows) < 2:
        return np.empty(0), 0
    columns = np.unique(np.linspace(0, n_test - 1, min(tests, n_test)).round().astype(int))
    found = []
    for column in columns:
        pair = np.stack([record.truth[rows, column], record.influence[rows, column]]).astype(np.float64)
        pair = pair[:, np.isfinite(pair).all(axis=0)]
        if pair.shape[1] < 2 or (np.ptp(pair, axis=1) == 0).any():  # constant: a rank correlation is undefined
            continue
        ranks = rankdata(pair, axis=1)
        found.append(np.corrcoef(ranks[0], ranks[1])[0][1])
    return np.asarray(found), len(columns)
