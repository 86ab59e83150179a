"""Do influence and ground truth name the same most helpful and most harmful training instances?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import Aligned, Unavailable, align
from influx.metrics.per_test import summarise
from influx.metrics.row_samples import ranking_samples, row_counts
from influx.metrics.statistics import FloatArray, check_resamples
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("topk_proponents", "topk_opponents", "ndcg")


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Top-k overlap and NDCG@k of influence against the ground truth.

    Measures: per test instance, then averaged over test instances: ``topk_proponents``, the share of the k
        largest true influences among the k largest scores; ``topk_opponents``, the same for the k smallest;
        ``ndcg``, Σ_{r≤k} gain(r) / log2(r + 1) down the ranking by score, over its largest possible value, with
        gain max(truth, 0). Equal values rank by id. The note gives what a random ranking expects.
    Intervals: 95% percentile bootstrap over test instances; if only some training instances are compared, over
        these too. They are then about k of as many other training instances, not about k of all.
    Degenerate: test instances with constant or non-finite scores or truth; for ``ndcg`` also those without a
        positive truth.
    Cost: n·m·log n; n_boot·k·m where training instances are resampled.
    Source: Järvelin & Kekäläinen (2002) for NDCG, with linear gain.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    k: int = 10
    n_boot: int = 1000

    def __post_init__(self) -> None:
        check_resamples("metric.ranking.n_boot", self.n_boot)
        if self.k < 1:
            raise ConfigError(f"metric.ranking.k must be at least 1, got {self.k}")

    def plan(self, prospect: Prospect) -> Work:
        """Four orders of every column."""
        n, m = prospect.truth_rows, len(prospect.test)
        if n * m == 0:
            return Work()
        boot = self.n_boot * m if n < len(prospect.train) else 0.0  # numbers in resamples of the rows
        return Work(
            compared=4.0 * n * m * np.log2(n),
            numbers=6.0 * n * m + 40.0 * min(n, 4 * self.k + 16) * boot,
            bytes=8.0 * (6.0 * n * m + 5.0 * boot),
            formula=f"{n} x {m} cells ordered",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows: the names in ``NAMES``."""
        aligned = align(influence, run)
        if isinstance(aligned, Unavailable):
            return tidy(unavailable(NAMES, aligned.status, aligned.note))
        rows = len(aligned.scores)
        if self.k >= rows:
            note = f"metric.ranking.k={self.k} covers all {rows} training instances with score and truth; lower it"
            return tidy(unavailable(NAMES, "not applicable", note, aligned.protocol))
        assert run.truth is not None  # nothing could be aligned without
        order = np.argsort(run.train.ids[run.truth.computed & influence.computed], kind="stable")
        return tidy(self._rows(aligned, order, run))

    def _rows(self, aligned: Aligned, order: NDArray[np.intp], run: Run) -> Iterator[Measured]:
        """``order``: of the rows by their ids, so that ties go by these everywhere below."""
        cells = np.ix_(order, aligned.usable)
        scores, truth = aligned.scores[cells], aligned.truth[cells]
        by_score, by_truth = top(scores, self.k), top(truth, self.k)
        worst_by_score, worst_by_truth = top(-scores, self.k), top(-truth, self.k)
        gained, chance = ndcg(truth, by_score, by_truth)
        without = int(np.isnan(gained).sum())
        no_gain = f"{without} test instances without a positive truth left out" if without else ""
        expected = self.k / len(scores)
        expected_ndcg = float(chance[~np.isnan(chance)].mean()) if without < len(chance) else np.nan
        measures = (
            (overlap(by_score, by_truth, len(scores)), expected, ""),
            (overlap(worst_by_score, worst_by_truth, len(scores)), expected, ""),
            (gained, expected_ndcg, no_gain),
        )
        rows = row_counts(run.rng("training instances"), len(scores), aligned.n_train, self.n_boot)
        resampled = (None,) * 3 if rows is None else ranking_samples(scores, truth, rows, self.k)
        for name, (values, random, remark), samples in zip(NAMES, measures, resampled, strict=True):
            yield summarise(
                name,
                values,
                rng=run.rng("test instances"),
                n_boot=self.n_boot,
                samples=samples,
                lowest=0.0,
                protocol=sentences(f"k={self.k}, ties by id", aligned.protocol),
                note=sentences(f"random ranking: {random:.4f}", aligned.note, aligned.degenerate, remark),
            )


def top(values: FloatArray, k: int, ids: NDArray[np.int64] | None = None) -> NDArray[np.intp]:
    """``(k, m)`` rows of the k largest values of each column, largest first; equal values by id or, without, by row."""
    if ids is None:
        return np.argsort(-values, axis=0, kind="stable")[:k]
    by_id = np.argsort(ids, kind="stable")
    return np.asarray(by_id[np.argsort(-values[by_id], axis=0, kind="stable")[:k]])


def overlap(left: NDArray[np.intp], right: NDArray[np.intp], n: int) -> FloatArray:
    """Share of common entries of two (k, m) sets of rows out of ``n``, per column."""
    k, m = left.shape
    member = np.zeros((n, m), dtype=bool)
    np.put_along_axis(member, right, True, axis=0)
    return np.asarray(np.take_along_axis(member, left, axis=0).sum(axis=0) / k)


def ndcg(truth: FloatArray, by_score: NDArray[np.intp], by_truth: NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
    """NDCG per column, and what a random ranking expects; NaN where no truth is positive."""
    gain = np.maximum(truth, 0.0)
    discount = 1 / np.log2(np.arange(len(by_score)) + 2)
    best = discount @ np.take_along_axis(gain, by_truth, axis=0)
    best = np.where(best > 0, best, np.nan)
    return discount @ np.take_along_axis(gain, by_score, axis=0) / best, discount.sum() * gain.mean(axis=0) / best
