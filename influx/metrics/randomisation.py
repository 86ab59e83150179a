"""Does influence depend on what the net has learnt?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.influence import Influence
from influx.metrics.aligned import MIN_ROWS, left_out
from influx.metrics.per_test import summarise
from influx.metrics.resampled import resampled_spearman
from influx.metrics.statistics import (
    check_resamples,
    constant_columns,
    counts_of,
    interval,
    resample,
    spearman_columns,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("randomisation", "randomisation_self")


@dataclass(frozen=True, kw_only=True)
class Randomisation:
    """Rank correlation between the influence of the trained net and that of one initialised again.

    Measures: per test instance, Spearman correlation over training instances between the estimator's influence and its
        influence under nets of the same kind with new random weights, averaged over ``inits`` of them;
        ``randomisation`` is the mean over test instances, ``randomisation_self`` the correlation of self-influence.
        Near 0 if influence reads what was learnt; near 1 if it follows from inputs and labels alone. The random
        weights stand in every checkpoint. Low is no proof of being right: noise is low too.
    Not applicable: no net; the estimator retrains, or follows the steps of training (TracIn, HyDRA and their like).
    Degenerate: constant or not finite influence; influence that cannot be computed under random weights.
    Intervals: 95% percentile bootstrap over test instances, for self-influence over training instances.
    Cost: ``inits`` trainings of the problem, shared by all estimators, and as many estimates.
    Source: Hanawa et al. 2021, arXiv:2006.04528, model randomisation test, after Adebayo et al. 2018.

    Attributes:
        inits: sets of random weights to average over.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    inits: int = 1
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.randomisation.n_boot", self.n_boot)
        if self.inits < 1:
            raise ConfigError(f"metric.randomisation.inits must be at least 1, got {self.inits}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """Trainings of the problem with new weights, and orders of their columns; the estimates are not counted."""
        n, m = len(prospect.train), len(prospect.test)
        return Work(
            more_trainings=float(self.inits),
            compared=(1.0 + self.inits) * n * m * float(np.log2(max(n, 2))),
            numbers=10.0 * (1 + self.inits) * n * m + 20.0 * self.n_boot * n,
            bytes=8.0 * (2.0 + self.inits) * n * m + 40.0 * self.n_boot * n,
            formula=f"{self.inits} trainings of the problem with new weights; {n} x {m} cells ordered",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Two rows: the names in ``NAMES``."""
        try:
            others = [run.again.untrained(number) for number in range(self.inits)]
        except IncompatibleError as error:
            return tidy(unavailable(NAMES, "not applicable", str(error)))
        except NumericalError as error:
            return tidy(unavailable(NAMES, "degenerate", f"under random weights: {error}"))
        protocol = f"Spearman between trained and random weights, mean over {self.inits} new initialisations"
        return tidy([self._per_test(influence, others, run, protocol), self._own(influence, others, run, protocol)])

    def _per_test(self, influence: Influence, others: list[Influence], run: Run, protocol: str) -> Measured:
        rows = np.all([one.computed for one in (influence, *others)], axis=0)
        arrays = [np.asarray(one.values[rows], dtype=np.float64) for one in (influence, *others)]
        protocol = sentences(protocol, f"{int(rows.sum())} of {len(rows)} training instances")
        if rows.sum() < MIN_ROWS:
            reason = f"a correlation needs {MIN_ROWS} training instances with scores, there are {int(rows.sum())}"
            return unavailable(NAMES[:1], "not applicable", reason, protocol)[0]
        broken = ~np.all([np.isfinite(values).all(axis=0) for values in arrays], axis=0)
        flat = np.any([constant_columns(one.values[rows]) for one in (influence, *others)], axis=0)
        found = np.full(len(flat), np.nan)
        usable = ~(broken | flat)
        found[usable] = np.mean([spearman_columns(arrays[0][:, usable], a[:, usable]) for a in arrays[1:]], axis=0)
        return summarise(
            NAMES[0],
            found,
            rng=run.rng("test instances"),
            n_boot=self.n_boot,
            protocol=protocol,
            note=left_out(broken, flat),
        )

    def _own(self, influence: Influence, others: list[Influence], run: Run, protocol: str) -> Measured:
        protocol = sentences(
            protocol, f"n: training instances; 95% CI: bootstrap over training instances x{self.n_boot}"
        )
        own = [one.self_influence for one in (influence, *others)]
        reason = influence.self_influence_note
        if reason or any(values is None for values in own):
            reason = reason or "this estimator gives no self-influence"
            return unavailable(NAMES[1:], "not applicable", reason, protocol)[0]
        pairs = [_column(own[0], values) for values in own[1:]]
        if any(not np.isfinite(pair).all() or constant_columns(pair[:, :, 0].T).any() for pair in pairs):
            return unavailable(NAMES[1:], "degenerate", "self-influence is constant or not finite", protocol)[0]
        counts = counts_of(resample(run.rng("training instances"), pairs[0].shape[1], self.n_boot))
        samples = np.mean([resampled_spearman(pair, counts) for pair in pairs], axis=0)
        low, high = interval(np.clip(samples, -1.0, 1.0))
        value = float(np.mean([spearman_columns(pair[0], pair[1])[0] for pair in pairs]))
        return Measured(metric=NAMES[1], value=value, ci_low=low, ci_high=high, n=pairs[0].shape[1], protocol=protocol)


def _column(left: NDArray[Any] | None, right: NDArray[Any] | None) -> NDArray[np.float64]:
    """``(2, n, 1)`` for correlations of columns."""
    return np.stack([np.asarray(values, dtype=np.float64) for values in (left, right)])[:, :, None]
