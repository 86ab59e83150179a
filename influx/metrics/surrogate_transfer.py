"""Does influence that a small model computes hold for a large one?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.influence import Influence
from influx.metrics.aligned import MIN_ROWS, describe, left_out
from influx.metrics.lds import LinearDatamodelingScore
from influx.metrics.per_test import summarise
from influx.metrics.statistics import FloatArray, check_resamples, constant_columns, spearman_columns
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

TRUTH = ("transfer_truth", "transfer_truth_own", "transfer_truth_gap")
LDS = ("transfer_lds", "transfer_lds_own", "transfer_lds_gap")
AGREEMENT = ("transfer_agreement",)
NAMES = (*TRUTH, *LDS, *AGREEMENT)


@dataclass(frozen=True, kw_only=True)
class SurrogateTransfer:
    """Influence computed under another model, the surrogate, judged against what happens to the run's own.

    Measures: per test instance, Spearman correlations over training instances, then their mean. ``transfer_truth``:
        the estimator's influence under the surrogate with the ground truth of the run's model;
        ``transfer_truth_own``: its influence under that model itself; ``transfer_truth_gap``: the first less the
        second, paired, so that a surrogate that loses nothing has 0. ``transfer_lds``, ``_own``, ``_gap``: the same
        with risks of the run's model retrained on random subsets (linear datamodeling score; correlation over
        subsets). ``transfer_agreement``: influence under the surrogate with influence under the run's model.
    Not applicable: no ground truth (its three rows); a surrogate that does not serve the estimator's needs.
    Degenerate: test instances whose scores, truth or risks are constant or not finite are left out and counted.
    Intervals: 95% percentile bootstrap over test instances; subsets and models stay as they are.
    Needs: retraining. The subsets are those of the metric ``lds`` with as many of them.
    Cost: one training of the surrogate, shared by all estimators, and an estimate under it for each; ``subsets``
        trainings of the run's model, once per problem.
    Source: survey section 7 asks whether influence of small models stands for large ones; Coleman et al. 2020,
        arXiv:1906.11829, choose data by small proxies.

    Attributes:
        surrogate: the other model, by the name of its choice. Data, optimizer, training and seed stay.
        settings: its settings that differ from its defaults, such as {width: [16]}.
        subsets: models on random halves of the training instances; 0 leaves the linear datamodeling score out.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    surrogate: str = "linear"
    settings: dict[str, Any] | None = None
    subsets: int = 100
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.surrogate_transfer.n_boot", self.n_boot)
        if self.subsets < 0 or 0 < self.subsets < MIN_ROWS:
            raise ConfigError(
                f"metric.surrogate_transfer.subsets must be 0 or at least {MIN_ROWS}, got {self.subsets}; change it"
            )

    def plan(self, prospect: Prospect) -> Work:
        """A training, trainings on subsets, and ranks; estimates under the surrogate are counted beside it."""
        n, m = len(prospect.train), len(prospect.test)
        boot = 2.0 * len(NAMES) * self.n_boot * m
        work = Work(
            more_trainings=1.0,
            more_alone=1.0,
            compared=6.0 * n * m * float(np.log2(max(n, 2))),
            numbers=40.0 * n * m + boot,
            bytes=8.0 * 8.0 * n * m,
            formula=f"one training of model={self.surrogate}; {n} x {m} cells ordered",
        )
        if not self.subsets:
            return work
        design = self._lds.design(n, prospect.problem.seed)
        return work + Work(trainings=(design,), flops=8.0 * self.subsets * n * m, bytes=32.0 * self.subsets * m)

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Seven rows: the names in ``NAMES``."""
        try:
            other = run.again.under(self.surrogate, self.settings, "metric.surrogate_transfer")
        except IncompatibleError as error:
            return tidy(unavailable(NAMES, "not applicable", str(error)))
        except NumericalError as error:
            return tidy(unavailable(NAMES, "degenerate", f"under model={self.surrogate}: {error}"))
        both = np.asarray(influence.values, dtype=np.float64), np.asarray(other.values, dtype=np.float64)
        rows = influence.computed & other.computed
        return tidy([*self._truth(both, rows, run), *self._subsets(both, rows, run), *self._agreement(both, rows, run)])

    def _truth(self, both: tuple[FloatArray, FloatArray], rows: Any, run: Run) -> Iterator[Measured]:
        if run.truth is None:
            yield from unavailable(TRUTH, "not applicable", "no ground truth: truth=none", self._protocol)
            return
        rows = rows & run.truth.computed
        if rows.sum() < MIN_ROWS:
            note = f"a comparison needs {MIN_ROWS} instances with scores and truth, there are {int(rows.sum())}"
            yield from unavailable(TRUTH, "not applicable", note, self._protocol)
            return
        own, other = (values[rows] for values in both)
        protocol = sentences(
            f"{int(rows.sum())} of {len(rows)} training instances", describe(run.truth), self._protocol
        )
        yield from self._compared(TRUTH, own, other, np.asarray(run.truth.values[rows], np.float64), protocol, run)

    def _subsets(self, both: tuple[FloatArray, FloatArray], rows: Any, run: Run) -> Iterator[Measured]:
        if not self.subsets or not rows.all():
            lacking = int((~rows).sum())
            note = f"{lacking} training instances have no score" if lacking else "metric.surrogate_transfer.subsets=0"
            yield from unavailable(LDS, "not applicable", note, self._protocol)
            return
        design = self._lds.design(len(run.train), run.problem.seed)
        _, outcomes = run.retrain.outcomes(design, "subsets for the linear datamodeling score")
        masks = design.weights.astype(np.float64)
        with np.errstate(invalid="ignore"):
            own, other = (masks @ values for values in both)
        protocol = sentences(f"linear datamodeling score, {self.subsets} halves", self._protocol)
        yield from self._compared(LDS, own, other, -np.asarray(outcomes.loss, np.float64), protocol, run)

    def _agreement(self, both: tuple[FloatArray, FloatArray], rows: Any, run: Run) -> Iterator[Measured]:
        if rows.sum() < MIN_ROWS:
            note = f"a comparison needs {MIN_ROWS} training instances with scores, there are {int(rows.sum())}"
            yield from unavailable(AGREEMENT, "not applicable", note, self._protocol)
            return
        found, note = _correlations(*(values[rows] for values in both))
        yield self._row(AGREEMENT[0], found, self._protocol, note, run)

    def _compared(
        self, names: tuple[str, ...], own: FloatArray, other: FloatArray, truth: FloatArray, protocol: str, run: Run
    ) -> Iterator[Measured]:
        """Correlations of the surrogate's and the own scores with ``truth``, and their difference."""
        (theirs, note), (mine, note_own) = (_correlations(values, truth) for values in (other, own))
        gap, note_gap = theirs - mine, sentences(*dict.fromkeys([note, note_own]))
        notes = (note, note_own, note_gap)
        for name, values, told in zip(names, (theirs, mine, gap), notes, strict=True):
            yield self._row(name, values, protocol, told, run)

    def _row(self, name: str, values: FloatArray, protocol: str, note: str, run: Run) -> Measured:
        return summarise(name, values, rng=run.rng("test instances"), n_boot=self.n_boot, protocol=protocol, note=note)

    @property
    def _lds(self) -> LinearDatamodelingScore:
        return LinearDatamodelingScore(subsets=self.subsets)

    @property
    def _protocol(self) -> str:
        given = "".join(f", {name}={value}" for name, value in (self.settings or {}).items())
        return f"surrogate: model={self.surrogate}{given}, same data, optimizer, training and seed"


def _correlations(left: FloatArray, right: FloatArray) -> tuple[FloatArray, str]:
    """``(m,)`` Spearman correlations, NaN where one has none, and a sentence on these."""
    broken = np.asarray(~(np.isfinite(left).all(axis=0) & np.isfinite(right).all(axis=0)))
    constant = constant_columns(left) | constant_columns(right)
    usable = ~(broken | constant)
    found = np.full(len(usable), np.nan)
    found[usable] = spearman_columns(left[:, usable], right[:, usable])
    return found, left_out(broken, constant)
