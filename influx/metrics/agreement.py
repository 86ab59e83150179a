"""Agreement of influence with the ground truth, per test instance and pooled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from influx.influence import Influence
from influx.metrics import pooled
from influx.metrics.aligned import Aligned, Unavailable, align
from influx.metrics.per_test import summarise
from influx.metrics.row_samples import (
    interval_over,
    kendall_samples,
    pearson_samples,
    row_counts,
    spearman_samples,
)
from influx.metrics.statistics import (
    FloatArray,
    check_resamples,
    constant_columns,
    counts_of,
    interval,
    kendall_columns,
    pearson_columns,
    resample,
    spearman_columns,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

CORRELATIONS = {
    "pearson": (pearson_columns, pearson_samples),
    "spearman": (spearman_columns, spearman_samples),
    "kendall": (kendall_columns, kendall_samples),
}
PER_TEST = ("pearson", "spearman", "kendall", "spearman_median")
POOLED = ("pooled_pearson", "pooled_spearman", "pooled_kendall")
NAMES = (*PER_TEST, *POOLED, "slope")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Pearson, Spearman and Kendall's tau-b between influence and ground truth.

    Measures: per test instance, the correlation over training instances, then its mean (and, for Spearman, its
        median) over test instances; pooled, one correlation over all cells; ``slope``, the least-squares slope
        of truth on score over all cells, 1 for calibrated magnitudes, only for scores in loss units.
    Intervals: 95% percentile bootstrap over test instances (columns), in pooled numbers too. If only some training
        instances are compared, these (rows) are resampled as well, as the interval is for others like them.
    Degenerate: test instances whose scores or truth are constant or not finite have no correlation. They are
        left out of the mean and counted in the note; if none is left the status says so.
    Cost: n·m·log n for n rows and m test instances, plus n_boot·m, or n_boot·n·m
        where rows are resampled.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    n_boot: int = 1000

    def __post_init__(self) -> None:
        check_resamples("metric.agreement.n_boot", self.n_boot)

    def plan(self, prospect: Prospect) -> Work:
        """Ranks of every column and of all cells, for Spearman and for Kendall."""
        n, m = prospect.truth_rows, len(prospect.test)
        if n * m == 0:
            return Work()
        boot = self.n_boot * m if n < len(prospect.train) else 0.0  # numbers in resamples of the rows
        return Work(
            flops=2 * 50.0 * boot * n,
            compared=n * m * (8.0 * math.log2(n) + 2.0 * math.log2(n * m)),
            numbers=40.0 * n * m + 2.0 * self.n_boot * m + 60.0 * boot,
            bytes=8.0 * (20.0 * n * m + 8.0 * boot),
            formula=f"{n} x {m} cells ranked",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Eight rows: the names in ``NAMES``."""
        aligned = align(influence, run)
        if isinstance(aligned, Unavailable):
            return tidy(unavailable(NAMES, aligned.status, aligned.note))
        return tidy([*self._per_test(aligned, run), *self._pooled(aligned, influence.scale == "loss", run)])

    def _per_test(self, aligned: Aligned, run: Run) -> Iterator[Measured]:
        arrays = aligned.scores[:, aligned.usable], aligned.truth[:, aligned.usable]
        rows = self._rows(aligned, run) if aligned.usable.any() else None
        values = {kind: of(*arrays) for kind, (of, _) in CORRELATIONS.items()}
        samples = {kind: of(arrays, rows) for kind, (_, of) in CORRELATIONS.items() if rows is not None}
        for name in PER_TEST:
            kind, _, centre = name.partition("_")
            yield summarise(
                name,
                values[kind],
                rng=run.rng("test instances"),
                n_boot=self.n_boot,
                samples=samples.get(kind),
                centre="median" if centre else "mean",
                protocol=aligned.protocol,
                note=sentences(aligned.note, aligned.degenerate),
            )

    def _rows(self, aligned: Aligned, run: Run) -> FloatArray | None:
        return row_counts(run.rng("training instances"), len(aligned.scores), aligned.n_train, self.n_boot)

    def _pooled(self, aligned: Aligned, in_loss_units: bool, run: Run) -> Iterator[Measured]:
        protocol = sentences("pooled over cells", aligned.protocol, interval_over(aligned.partial, self.n_boot))
        finite = ~aligned.broken
        unusable = len(finite) - int(finite.sum())
        note = sentences(aligned.note, f"{unusable} of {len(finite)} test instances not finite" if unusable else "")
        scores, truth = aligned.scores[:, finite], aligned.truth[:, finite]
        if not scores.size or _flat(scores) or _flat(truth):
            reason = sentences("scores or truth are constant over all cells", note)
            yield from unavailable((*POOLED, "slope"), "degenerate", reason, protocol)
            return
        rank_only = "" if in_loss_units else "a slope needs scores in loss units; this estimator's scale is rank"
        rows = self._rows(aligned, run)
        for name, result in zip((*POOLED, "slope"), self._numbers(scores, truth, rows, run), strict=True):
            if name == "slope" and rank_only:
                yield from unavailable(["slope"], "not applicable", rank_only, protocol)
                continue
            yield self._measured(name, result, scores.shape[1], protocol, note)

    def _numbers(
        self, scores: FloatArray, truth: FloatArray, rows: FloatArray | None, run: Run
    ) -> tuple[pooled.Pooled, ...]:
        counts = counts_of(resample(run.rng("test instances"), scores.shape[1], self.n_boot))
        pearson, slope = pooled.pearson_and_slope(scores, truth, counts, rows)
        spearman, kendall = pooled.spearman_and_kendall(scores, truth, counts, run.rng("pairs of cells"), rows)
        return pearson, spearman, kendall, slope

    def _measured(self, name: str, result: pooled.Pooled, n: int, protocol: str, note: str) -> Measured:
        low, high = interval(result.samples) if n > 1 else (math.nan, math.nan)
        single = "no interval from a single test instance" if n == 1 else ""
        return Measured(
            metric=name,
            value=result.value,
            ci_low=low,
            ci_high=high,
            n=n,
            protocol=protocol,
            note=sentences(note, result.note, single),
        )


def _flat(values: FloatArray) -> bool:
    return bool(constant_columns(values.reshape(-1, 1))[0])
