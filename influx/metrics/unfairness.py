"""Leave-one-out unfairness: does a prediction hang on one training instance?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import left_out
from influx.metrics.flagged import per_column
from influx.metrics.per_test import summarise
from influx.metrics.statistics import (
    check_resamples,
    constant_columns,
    counts_of,
    interval,
    resample,
    weighted_mean,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design, LossNorm
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("unfairness_any", "unfairness_mean", "unfairness_most", "unfairness_seed", "unfairness_excess")
FOUND = "unfairness_auroc"
Z = 1.959963984540054  # of a 95% interval


@dataclass(frozen=True, kw_only=True)
class Unfairness:
    """Leave-one-out unfairness: how often a predicted class changes when one training instance is left out.

    Measures: p_i(j) = share of seeds whose prediction of test instance j differs with and without i, under the same
        seed. ``unfairness_any``: share of test instances with p_i(j) > 0 for some i; with ``budget`` below n it is at
        least that. ``unfairness_mean``: mean of p_i(j) over i and j. ``unfairness_most``: largest mean over i of any
        test instance. ``unfairness_seed``: chance q(j) that two seeds disagree on the same data, averaged.
        ``unfairness_excess``: mean of p minus mean of q, which is what one instance adds to the luck of the seed.
        ``unfairness_auroc``: does an estimator name the instances that turn a prediction? For each test instance with
        p_i(j) > 0 for some i, the AUROC of |influence[i, j]| for these i among those left out, then the mean.
    Intervals: 95%. Wilson's over test instances for any, mean (a mean of shares varies no more than a share) and
        seed, over removals for most, which does not count that the largest was picked; percentile bootstrap over
        test instances for excess and AUROC.
    Needs: retraining; classes. Labels of test instances play no part, nor does the estimator but for the AUROC.
    Cost: seeds · (removed + 1) + baseline_seeds trainings, shared with truth=loo; removed · m comparisons.
    Source: Black & Fredrikson 2021. The baseline and the AUROC are additions.

    Attributes:
        seeds: initialisations and batch orders under which instances are left out.
        budget: at most this many training instances, drawn at random; null leaves out each.
        baseline_seeds: trainings on everything for the baseline.
        renormalise: divide by the batch's surviving weight instead of its size.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    seeds: int = 1
    budget: int | None = None
    baseline_seeds: int = 10
    renormalise: bool = False
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.unfairness.n_boot", self.n_boot)
        for name, value, least in (
            ("seeds", self.seeds, 1),
            ("budget", 1 if self.budget is None else self.budget, 1),
            ("baseline_seeds", self.baseline_seeds, 2),
        ):
            if value < least:
                raise ConfigError(f"metric.unfairness.{name} must be at least {least}, got {value}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``evaluate``."""
        if prospect.problem.data.task != "classification":
            return Work()
        removed, m = self._removed(prospect), len(prospect.test)
        return Work(
            trainings=(*self._designs(len(prospect.train), removed), self._baseline(len(prospect.train))),
            numbers=3.0 * self.seeds * len(removed) * m + self.n_boot * 2.0 * m,
            bytes=12.0 * len(removed) * m + 16.0 * self.n_boot * m,
            formula=f"{self.seeds} x ({len(removed)} removed + 1) + {self.baseline_seeds} trainings",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """One row per number of ``NAMES``, and ``FOUND``."""
        if run.problem.data.task != "classification":
            why = "this is regression: there is no class to change"
            return tidy(unavailable([*NAMES, FOUND], "not applicable", why))
        removed, n, m = self._removed(run), len(run.train), len(run.test)
        flips = np.zeros((len(removed), m))
        for design in self._designs(n, removed):
            predicted = _predictions(run, design, "retraining leave-one-out models")
            flips += (predicted[1:] != predicted[0]) / self.seeds
        luck = disagreement(_predictions(run, self._baseline(n), "retraining under other seeds"))
        every, mean = (flips > 0).any(axis=0), flips.mean(axis=0)
        most, protocol = float(mean.max()), self._protocol(len(removed), n, m)
        part = f"at least: {n - len(removed)} training instances were not left out" if len(removed) < n else ""
        weights = counts_of(resample(run.rng("test instances"), m, self.n_boot))
        low, high = interval(weighted_mean(np.broadcast_to(mean - luck, weights.shape), weights))
        rows = [
            _share("unfairness_any", float(every.mean()), m, protocol, part),
            _share("unfairness_mean", float(mean.mean()), m, protocol),
            _share("unfairness_most", most, len(removed), sentences(protocol, "n counts removals"), part),
            _share("unfairness_seed", float(luck.mean()), m, protocol),
            Measured(
                metric="unfairness_excess",
                value=float((mean - luck).mean()),
                ci_low=low,
                ci_high=high,
                n=m,
                protocol=sentences(protocol, f"bootstrap over test instances x{self.n_boot}"),
            ),
        ]
        rows.append(self._found(influence, flips > 0, removed, run, protocol))
        return tidy(rows)

    def _found(
        self, influence: Influence, turned: NDArray[np.bool_], removed: NDArray[np.int64], run: Run, protocol: str
    ) -> Measured:
        """AUROC of absolute influence for the removals that turned a prediction, ``turned`` (removed, m)."""
        scored = influence.computed[removed]
        if not scored.any():
            note = "none of the removed instances has a score"
            return unavailable([FOUND], "not applicable", note, protocol)[0]
        turned, rows = turned[scored], removed[scored]
        asked = np.asarray(turned.any(axis=0) & ~turned.all(axis=0))
        if not asked.any():
            return unavailable([FOUND], "not applicable", "no prediction turned by leaving an instance out", protocol)[
                0
            ]
        magnitudes = np.abs(influence.values[rows][:, asked])
        broken = ~np.isfinite(magnitudes).all(axis=0)
        constant = ~broken & constant_columns(magnitudes)
        values = per_column(magnitudes, turned[:, asked], ~(broken | constant))[1]
        said = f"test instances whose prediction turned: {int(asked.sum())} of {len(asked)}"
        return summarise(
            FOUND,
            values,
            rng=run.rng("turned test instances"),
            n_boot=self.n_boot,
            protocol=sentences("by absolute influence", said, protocol),
            note=left_out(broken, constant),
        )

    def _removed(self, run: Run | Prospect) -> NDArray[np.int64]:
        """Rows of the training split to leave out, ascending."""
        rows = np.arange(len(run.train))
        if self.budget is None or self.budget >= len(rows):
            return rows
        return subsets.some(run.train.ids, rows, self.budget, run.drawn("removed"))

    @property
    def _norm(self) -> LossNorm:
        return "subset" if self.renormalise else "full"

    def _designs(self, n: int, removed: NDArray[np.int64]) -> list[Design]:
        return [subsets.leave_one_out(n, removed, seed, self._norm) for seed in range(self.seeds)]

    def _baseline(self, n: int) -> Design:
        return subsets.full(n, self.baseline_seeds, self._norm)

    def _protocol(self, removed: int, n: int, m: int) -> str:
        return sentences(
            f"{removed} of {n} training instances left out, {m} test instances",
            f"seeds={self.seeds}, baseline seeds={self.baseline_seeds}, loss_norm={self._norm}",
        )


def _predictions(run: Run, design: Design, label: str) -> NDArray[np.float32]:
    """``(models, m)`` predicted classes."""
    predicted = np.empty((len(design), len(run.test)), np.float32)
    for rows, _, test in run.retrain.parts(design, label):
        predicted[rows] = test.prediction
    return predicted


def disagreement(predicted: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(m,)`` chance that two different rows of ``predicted`` (models, m) differ."""
    models = len(predicted)
    agreeing = np.zeros(predicted.shape[1])
    for label in np.unique(predicted):
        count = (predicted == label).sum(axis=0)
        agreeing += count * (count - 1)
    return np.asarray(1 - agreeing / (models * (models - 1)))


def wilson(share: float, n: int) -> tuple[float, float]:
    """95% interval of a share of n (Wilson 1927); inside [0, 1], and not a point where the share is 0 or 1."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * float(np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _share(metric: str, value: float, n: int, protocol: str, note: str = "") -> Measured:
    low, high = wilson(value, n)
    full = sentences(protocol, "95% CI: Wilson")
    return Measured(metric=metric, value=value, ci_low=low, ci_high=high, n=n, protocol=full, note=note)
