"""Calibration: does the size of an influence mean anything, not only its order?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import pooled
from influx.metrics.aligned import Aligned, Unavailable, align
from influx.metrics.ceiling import of_seeds
from influx.metrics.reliability import NO_RETURN
from influx.metrics.row_samples import interval_over, row_counts
from influx.metrics.statistics import (
    FloatArray,
    check_resamples,
    constant_columns,
    counts_of,
    interval,
    resample,
    spearman_brown,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("calibration_slope", "calibration_r2", "calibration_skill")
CEILING = "calibration_ceiling"
POOLED = "pooled over training and test instances"
SINGLE = "no interval from a single test instance"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Straight line of the ground truth on the estimate, over all pairs of a training and a test instance.

    Measures: with truths t and estimates e in units of loss, ``calibration_slope``, the least-squares slope of t on e,
        1 for calibrated sizes; ``calibration_r2``, the share of the variance of t that the line explains;
        ``calibration_skill``, 1 - mean((t - e)²) / var(t), the same for the estimates as they stand, without a line
        fitted to them: at most R², 0 for what the mean truth achieves, negative for sizes that are worse than that.
        Noise of the truth lowers R² and skill but not the slope. The table calibration has mean truth against mean
        estimate in groups of equal size by estimate. ``calibration_ceiling`` is the largest R² against a truth as
        noisy as this one: its reliability, the pooled correlation between the truths of single seeds, corrected by
        Spearman-Brown to the mean over those that the truth averages. It is not the estimator's.
    Intervals: 95% percentile bootstrap over test instances; if only some training instances are compared, over these
        too. The table's are over test instances, and missing where only some training instances are compared.
    Not applicable: scores that are not in units of loss; no ground truth; the ceiling of one truth seed.
    Degenerate: estimates or truths that are constant, up to rounding, for every test instance. Test instances with
        values that are not finite are left out and counted in the note.
    Cost: n·m·log n operations for the groups; n_boot·m, or n_boot·n·m where training instances are resampled, and as
        many for every pair of truth seeds.
    Source: none; ordinary regression.

    Attributes:
        bins: groups by estimate, in the table.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    bins: int = 10
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.calibration.n_boot", self.n_boot)
        if self.bins < 2:
            raise ConfigError(f"metric.calibration.bins must be at least 2, got {self.bins}; 10 is usual")

    def plan(self, prospect: Prospect) -> Work:
        """Sums over cells, and one order of all of them."""
        n, m = prospect.truth_rows, len(prospect.test)
        if n * m == 0:
            return Work()
        boot = self.n_boot * m if n < len(prospect.train) else 0.0
        return Work(
            flops=2 * 6.0 * boot * n,
            compared=n * m * math.log2(n * m),
            numbers=20.0 * n * m + 8.0 * self.n_boot * m,
            bytes=8.0 * (12.0 * n * m + boot),
            formula=f"{n} x {m} cells",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows, the names in ``NAMES``, and ``CEILING``; the binned curve."""
        rows, tables = self._of_estimate(influence, run)
        return tidy([*rows, self._ceiling(run)], tables)

    def _of_estimate(self, influence: Influence, run: Run) -> tuple[list[Measured], dict[str, pd.DataFrame]]:
        if influence.scale != "loss":
            reason = "sizes need scores in loss units; this estimator's scale is rank"
            return unavailable(NAMES, "not applicable", reason, POOLED), {}
        aligned = align(influence, run)
        if isinstance(aligned, Unavailable):
            return unavailable(NAMES, aligned.status, aligned.note, POOLED), {}
        over = interval_over(aligned.partial, self.n_boot)
        protocol = sentences(POOLED, aligned.protocol, over)
        finite = ~aligned.broken
        lost = int(aligned.broken.sum())
        note = sentences(aligned.note, f"{lost} of {len(finite)} test instances not finite" if lost else "")
        estimate, truth = aligned.scores[:, finite], aligned.truth[:, finite]
        if not aligned.usable.any():  # judged by the rounding of the numbers as stored
            reason = sentences("estimates or truths are constant for every test instance", note)
            return unavailable(NAMES, "degenerate", reason, protocol), {}
        counts = counts_of(resample(run.rng("test instances"), estimate.shape[1], self.n_boot))
        rows = list(self._rows(estimate, truth, counts, aligned, run, protocol, note))
        return rows, {"calibration": self._table(estimate, truth, None if aligned.partial else counts)}

    def _ceiling(self, run: Run) -> Measured:
        """Reliability of the truth over all cells."""
        seeds = of_seeds(run.truth)
        if isinstance(seeds, Unavailable):
            return unavailable([CEILING], seeds.status, seeds.note, POOLED)[0]
        count = len(seeds.truths[0])
        protocol = sentences(POOLED, seeds.protocol, interval_over(count < seeds.n_train, self.n_boot))
        finite = np.all([np.isfinite(values).all(axis=0) for values in seeds.truths], axis=0)
        truths = [np.asarray(values[:, finite], dtype=np.float64) for values in seeds.truths]
        note = f"{int((~finite).sum())} of {len(finite)} test instances not finite" if not finite.all() else ""
        if not finite.any() or any(constant_columns(values[:, finite]).all() for values in seeds.truths):
            reason = sentences("the truth of a seed is constant for every test instance", note)
            return unavailable([CEILING], "degenerate", reason, protocol)[0]
        counts = counts_of(resample(run.rng("test instances"), int(finite.sum()), self.n_boot))
        rows = row_counts(run.rng("training instances"), count, seeds.n_train, self.n_boot)
        pairs = [pooled.pearson_and_slope(*pair, counts, rows)[0] for pair in combinations(truths, 2)]
        correlation = float(np.mean([pair.value for pair in pairs]))
        samples = np.mean([pair.samples for pair in pairs], axis=0)
        single = counts.shape[1] == 1
        low, high = (math.nan, math.nan) if single else interval(spearman_brown(samples, seeds.averaged))
        return Measured(
            metric=CEILING,
            value=float(spearman_brown(correlation, seeds.averaged)),
            ci_low=low,
            ci_high=high,
            n=counts.shape[1],
            protocol=protocol,
            note=sentences(
                f"truth: mean over {seeds.averaged} seed{'s' if seeds.averaged > 1 else ''}",
                "an estimate of the same seed may exceed it",
                note,
                SINGLE if single else "",
                NO_RETURN.format(correlation) if correlation <= 0 else "",
            ),
        )

    def _rows(
        self,
        estimate: FloatArray,
        truth: FloatArray,
        counts: FloatArray,
        aligned: Aligned,
        run: Run,
        protocol: str,
        note: str,
    ) -> Iterator[Measured]:
        rows = row_counts(run.rng("training instances"), len(estimate), aligned.n_train, self.n_boot)
        pearson, slope = pooled.pearson_and_slope(estimate, truth, counts, rows)
        skill, skill_samples = _skill(estimate, truth, counts, rows)
        numbers = (slope.value, pearson.value**2, skill), (slope.samples, pearson.samples**2, skill_samples)
        n, single = estimate.shape[1], SINGLE if estimate.shape[1] == 1 else ""
        for name, value, samples in zip(NAMES, *numbers, strict=True):
            low, high = interval(samples) if n > 1 else (math.nan, math.nan)
            yield Measured(
                metric=name,
                value=value,
                ci_low=low,
                ci_high=high,
                n=n,
                protocol=protocol,
                note=sentences(note, single),
            )

    def _table(self, estimate: FloatArray, truth: FloatArray, counts: FloatArray | None) -> pd.DataFrame:
        """Mean truth against mean estimate, in groups of equal size."""
        import pandas as pd

        cells = np.argsort(estimate, axis=None, kind="stable")
        rows, m = [], estimate.shape[1]
        for group in np.array_split(cells, min(self.bins, len(cells))):
            mean, ends = float(truth.ravel()[group].mean()), (math.nan, math.nan)
            if counts is not None and m > 1:
                total = np.bincount(group % m, truth.ravel()[group], minlength=m)
                size = counts @ np.bincount(group % m, minlength=m)
                ends = interval(np.where(size > 0, counts @ total, math.nan) / np.where(size > 0, size, 1.0))
            at = {"series": "pairs by estimate", "estimate": float(estimate.ravel()[group].mean()), "truth": mean}
            rows.append(at | {"ci_low": ends[0], "ci_high": ends[1]})
        return pd.DataFrame(rows)


def _skill(
    estimate: FloatArray, truth: FloatArray, counts: FloatArray, rows: FloatArray | None
) -> tuple[float, FloatArray]:
    """1 - mean((t - e)²) / var(t) over all cells, and in each resample (n_boot,)."""
    shift = truth.mean()  # against cancellation
    error, first, second = (
        _means(part, counts, rows) for part in ((truth - estimate) ** 2, truth - shift, (truth - shift) ** 2)
    )
    spread = second - first**2
    found = 1 - error / np.where(spread > 0, spread, math.nan)
    return float(found[0]), found[1:]


def _means(values: FloatArray, counts: FloatArray, rows: FloatArray | None) -> FloatArray:
    """``(1 + n_boot,)`` mean of values (n, m) over all cells, then over those of each resample."""
    per_column = values.mean(axis=0)
    resampled = per_column if rows is None else rows @ values / len(values)
    return np.concatenate([[per_column.mean()], (counts * resampled).sum(axis=1) / counts.sum(axis=1)])
