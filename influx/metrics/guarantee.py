"""What is guaranteed about an estimator's values: exact, bounded, or calibrated on the ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from influx.errors import ConfigError
from influx.guarantees import exactly
from influx.influence import Influence
from influx.metrics.aligned import Aligned, Unavailable, align, left_out
from influx.metrics.calibrated import BINS, GROUPS, Calibrated, calibrate
from influx.metrics.concentration import Concentration, concentration, settings_of
from influx.metrics.stability_bounds import LINEAR, Stability, stability
from influx.metrics.statistics import check_resamples, counts_of, interval, resample
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.metrics.unfairness import wilson
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = (
    "guarantee",
    "guarantee_coverage",
    "guarantee_gain",
    "guarantee_concentration",
    "guarantee_stability",
    "guarantee_stability_held",
)
CALIBRATED, STABILITY = NAMES[1:3], NAMES[4:]
ROUNDING = 1e-9  # of the optimum, relative to a bound


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """The strongest guarantee of an estimator's values, and whether the ground truth bears it out.

    Measures: ``guarantee`` is the half-width of an interval around every value, and its protocol begins with the kind.
        exact: the value is the quantity that it estimates, half-width 0. concentration: the expectation of a mean over
        random draws of a bounded risk lies within, with probability ``level`` for each cell (also
        ``guarantee_concentration``). calibrated: the ground truth of another training instance lies within for a share
        ``level`` of cells; half of the rows of the truth, drawn at random, give the quantile of |truth - value|
        (where values have another unit, half of these first fit a straight line).
        ``guarantee_coverage``: share of cells of the other half inside the calibrated interval. ``guarantee_gain``: by
        how much it is narrower than one around a constant, 1 being perfect and 0 or less no better than no influence.
        ``guarantee_stability``: median bound on |leave-one-out| over all cells, from strong convexity; it holds for
        certain. ``guarantee_stability_held``: share of training instances that keep it on all test instances, 1 unless
        something is wrong. Certified budgets of removals are metric=certified_removal.
    Intervals: 95%. Percentile bootstrap over training instances (rows of the truth), the calibrating ones for the
        half-width and, the same draws, for the gain; the judging ones for coverage; Wilson's for the share that keeps
        the bound.
    Not applicable: no truth to calibrate on, or too few rows of it for the level; a bound whose conditions are not met,
        which the note names.
    Cost: n·m for the residuals, n·m for the bound.
    Source: Vovk et al. 2005 and Lei et al. 2018 for split conformal intervals: cells of one training instance depend
        on each other, so coverage is of the pooled cells, and rows count in its correction (Dunn et al. 2023);
        Hoeffding 1963 and Maurer & Pontil 2009; Bousquet & Elisseeff 2002.

    Attributes:
        level: probability or share that intervals are to cover.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    level: float = 0.9
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.guarantee.n_boot", self.n_boot)
        if not 0 < self.level < 1:
            raise ConfigError(f"metric.guarantee.level must be between 0 and 1, got {self.level}; 0.9 is the default")

    def plan(self, prospect: Prospect) -> Work:
        """Residuals, their bins, and the bound."""
        n, m, groups = prospect.truth_rows, len(prospect.test), min(prospect.truth_rows, GROUPS)
        linear = getattr(prospect.problem.learner, "name", "") in LINEAR
        bounded = float(len(prospect.train) * m) if linear else 0.0
        return Work(
            numbers=30.0 * n * m + 8.0 * bounded,
            flops=4.0 * self.n_boot * groups * BINS,
            bytes=8.0 * (6.0 * n * m + float(BINS) * (groups + self.n_boot if n else 0) + 2.0 * bounded),
            formula=f"{n} x {m} residuals",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Six rows: the names in ``NAMES``."""
        found = self._calibrated(influence, run)
        sampled = concentration(influence, run, self.level)
        rows = [self._strongest(run, influence, found, sampled)]
        rows += self._coverage(found, run)
        if isinstance(sampled, str):
            rows += unavailable([NAMES[3]], "not applicable", sampled)
        else:
            said = sentences("concentration", sampled.said, f"level {self.level:g} for each cell")
            rows.append(Measured(metric=NAMES[3], value=sampled.half, n=cells_of(influence), protocol=said))
        return tidy([*rows, *self._stable(influence, run)])

    def _calibrated(self, influence: Influence, run: Run) -> tuple[Calibrated, Aligned] | Unavailable:
        aligned = align(influence, run)
        if isinstance(aligned, Unavailable):
            return aligned
        finite = ~aligned.broken
        rows, fitted = len(aligned.scores), influence.scale != "loss"
        if rows < 8 or not finite.any():
            note = f"calibration needs finite values of 8 training instances with truth, there are {rows}"
            return Unavailable(status="not applicable" if rows < 8 else "degenerate", note=note)
        order = run.drawn("calibration").permutation(rows)  # the same halves for all estimators
        draws = run.rng("calibrating instances").random((self.n_boot, min(rows, GROUPS)))
        arrays = aligned.scores[:, finite], aligned.truth[:, finite]
        found = calibrate(*arrays, order, self.level, fitted=fitted, resamples=draws)
        if isinstance(found, str):
            return Unavailable(status="not applicable", note=found)
        without = left_out(aligned.broken, np.zeros_like(aligned.broken))
        protocol, note = (sentences(said, without) for said in (aligned.protocol, aligned.note))
        return found, replace(aligned, protocol=protocol, note=note)

    def _strongest(
        self,
        run: Run,
        influence: Influence,
        found: tuple[Calibrated, Aligned] | Unavailable,
        sampled: Concentration | str,
    ) -> Measured:
        """The row ``guarantee``."""
        exact = exactly(run.again.name, settings_of(run))
        if exact:
            agreed = self._agreement(influence, run) if exact.startswith("leave-one-out of the") else ""
            protocol = sentences("exact", exact, "up to rounding")
            return Measured(
                metric=NAMES[0], value=0.0, ci_low=0.0, ci_high=0.0, n=cells_of(influence), protocol=protocol,
                note=agreed,
            )  # fmt: skip
        if not isinstance(sampled, str):
            protocol = sentences("concentration", sampled.said, f"level {self.level:g} for each cell")
            return Measured(metric=NAMES[0], value=sampled.half, n=cells_of(influence), protocol=protocol)
        if isinstance(found, Unavailable):
            return unavailable(NAMES[:1], found.status, sentences("no guarantee", found.note, str(sampled)), "none")[0]
        calibrated, aligned = found
        low, high = interval(calibrated.half_samples)
        return Measured(
            metric=NAMES[0],
            value=calibrated.half,
            ci_low=low,
            ci_high=high,
            n=calibrated.rows[1],
            protocol=sentences("calibrated", self._protocol(calibrated), aligned.protocol),
            note=sentences(f"around a constant: {calibrated.trivial:.4g}", aligned.note),
        )

    def _agreement(self, influence: Influence, run: Run) -> str:
        """What the ground truth says of a value that is exact by construction."""
        truth = run.truth
        if truth is None or not str(truth.report.get("protocol", "")).startswith("leave-one-out"):
            return ""
        rows = truth.computed & influence.computed
        off = float(np.abs(influence.values[rows] - truth.values[rows]).max(initial=0.0))
        return f"largest difference to the ground truth: {off:.2g}"

    def _protocol(self, calibrated: Calibrated) -> str:
        fitted, rest, judged = calibrated.rows
        line = f"{fitted} rows fit a straight line, " if fitted else ""
        return sentences(
            f"level {self.level:g}; {line}{rest} rows of the truth calibrate, {judged} others judge; pooled cells",
            f"n: rows; 95% CI: bootstrap over rows x{self.n_boot}",
        )

    def _coverage(self, found: tuple[Calibrated, Aligned] | Unavailable, run: Run) -> Iterator[Measured]:
        if isinstance(found, Unavailable):
            yield from unavailable(CALIBRATED, found.status, found.note)
            return
        calibrated, aligned = found
        counts = counts_of(resample(run.rng("judging instances"), len(calibrated.covered), self.n_boot))
        low, high = interval(counts @ calibrated.covered / len(calibrated.covered))
        protocol = sentences(self._protocol(calibrated), aligned.protocol)
        coverage, gain = CALIBRATED
        yield Measured(
            metric=coverage,
            value=float(calibrated.covered.mean()),
            ci_low=low,
            ci_high=high,
            n=len(calibrated.covered),
            protocol=protocol,
            note=sentences(f"wanted: {self.level:g}", aligned.note),
        )
        if not calibrated.trivial > 0:
            yield from unavailable([gain], "degenerate", "the truth is the same constant almost everywhere", protocol)
            return
        plain = calibrated.trivial_samples
        low, high = interval(1 - calibrated.half_samples / np.where(plain > 0, plain, np.nan))
        yield Measured(
            metric=gain,
            value=1 - calibrated.half / calibrated.trivial,
            ci_low=low,
            ci_high=high,
            n=calibrated.rows[1],
            protocol=protocol,
            note=sentences(
                f"half-width {calibrated.half:.4g}, around a constant {calibrated.trivial:.4g}", aligned.note
            ),
        )

    def _stable(self, influence: Influence, run: Run) -> Iterator[Measured]:
        truth = run.truth
        subset = truth is not None and "loss_norm=subset" in str(truth.report.get("protocol", ""))
        bound = stability(run, subset)
        if isinstance(bound, str):
            yield from unavailable(STABILITY, "not applicable", bound)
            return
        size, held = STABILITY
        protocol = sentences(
            "bounded: |leave-one-out| of every cell, from strong convexity and the gradients at the optimum",
            f"loss_norm={'subset' if subset else 'full'}, weight_decay={run.problem.learner.weight_decay:g}",  # type: ignore[attr-defined]
        )
        note = sentences(f"one bound for all pairs: {bound.uniform:.4g}", self._outside(influence, bound))
        value, n = float(np.median(bound.cells)), bound.cells.size
        yield Measured(metric=size, value=value, ci_low=value, ci_high=value, n=n, protocol=protocol, note=note)
        if truth is None or "leave-one-out" not in str(truth.report.get("protocol", "")):
            yield from unavailable([held], "not applicable", "no leave-one-out truth to hold it against; set truth=loo")
            return
        rows = truth.computed
        kept = (np.abs(truth.values[rows]) <= bound.cells[rows] * (1 + ROUNDING) + ROUNDING).all(axis=1)
        low, high = wilson(float(kept.mean()), len(kept))
        closest = float((np.abs(truth.values[rows]) / np.maximum(bound.cells[rows], ROUNDING)).max())
        yield Measured(
            metric=held,
            value=float(kept.mean()),
            ci_low=low,
            ci_high=high,
            n=len(kept),
            protocol=sentences(protocol, "n: training instances with truth; 95% CI: Wilson"),
            note=f"largest truth is {closest:.3g} of its bound",
        )

    def _outside(self, influence: Influence, bound: Stability) -> str:
        if influence.scale != "loss":
            return ""
        share = float((np.abs(influence.values) > bound.cells * (1 + 1e-6) + 1e-6).mean())
        return f"{share:.2%} of the values exceed their bound, so they are no leave-one-out" if share else ""


def cells_of(influence: Influence) -> int:
    """How many values there are: some rows may not have been asked for."""
    return int(influence.computed.sum() * influence.values.shape[1])
