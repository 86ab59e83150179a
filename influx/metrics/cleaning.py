"""Data cleaning: what removing or relabelling the most suspicious training instances does to the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import folds as crossed
from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import scores
from influx.metrics.aligned import Unavailable
from influx.metrics.refit import (
    Judge,
    Refitted,
    Resamples,
    Rows,
    area,
    check_chosen,
    check_seeds,
    check_shares,
    counts_for,
    percent,
    signed,
    weights_of,
)
from influx.metrics.statistics import check_resamples
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Data
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

Rule = Literal["self", "sum"]
Treatment = Literal["remove", "correct", "relabel"]
RULES: Mapping[str, str] = {
    "self": "suspect: high self-influence",
    "sum": "suspect: low influence summed over the ranking half of the test instances",
}
DONE: Mapping[str, str] = {
    "remove": "removed",
    "correct": "given their true label, as an inspector would",
    "relabel": "given the label that cross-validated models predict",
}
FOLDS = "metric.cleaning.folds"
Curve = list[Refitted]


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Accuracy gained by cleaning the training instances that look most suspicious.

    Measures: training instances are inspected from the most suspicious on, by self-influence (``_self``, high is
        suspicious) or by influence summed over the ranking half of the test instances (``_sum``, low is suspicious).
        After each share of ``shares`` those inspected so far are removed, corrected to the label that a corruption
        replaced, or relabelled by cross-validation, and models are trained anew.
        ``cleaning_<treatment>_<rule>_<percent>`` is the accuracy gained on the judging half against no cleaning;
        ``cleaning_area_<treatment>_<rule>`` the mean, over the curve up to the last share, of what it lies above
        that of a random inspection. Minus the loss stands for accuracy where there are no classes. The tables
        cleaning_<treatment> and cleaning_<treatment>_loss are the curves.
    Intervals: 95% percentile bootstrap over seeds and judging test instances together, widened for few seeds.
        Random inspection has an order of its own for every seed, the same for all estimators.
    Not applicable: correcting where no corruption recorded the true labels; labels of a regression.
    Needs: retraining.
    Cost: per estimator rules · shares · treatments · seeds trainings, and as many as one rule takes for random
        inspection, seeds for none, and folds for the labels by cross-validation.
    Source: Koh & Liang 2017, section 5.4 and Pruthi et al. 2020, section 4.1 for inspection; Northcutt et al. 2021
        for labels by cross-validation. Their curves show one order at random; here it is one for every seed.

    Attributes:
        shares: of the training instances, inspected so far; ascending.
        rules: self and sum, or one of them.
        treatments: remove, correct and relabel, or some of them.
        seeds: trainings of every condition.
        folds: parts of the cross-validation behind relabel.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    shares: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2])
    rules: list[Rule] = field(default_factory=lambda: ["self", "sum"])
    treatments: list[Treatment] = field(default_factory=lambda: ["remove", "correct", "relabel"])
    seeds: int = 5
    folds: int = 5
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_shares("metric.cleaning.shares", self.shares, most=0.9)
        check_chosen("metric.cleaning.rules", self.rules, get_args(Rule))
        check_chosen("metric.cleaning.treatments", self.treatments, get_args(Treatment))
        check_seeds("metric.cleaning.seeds", self.seeds)
        check_resamples("metric.cleaning.n_boot", self.n_boot)
        if self.folds < 2:
            raise ConfigError(f"{FOLDS} must be at least 2, got {self.folds}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """Trainings of what is known beforehand, and as many as one estimator's orders take."""
        judge, data = Judge.of(prospect, self.seeds), prospect.problem.data
        n, possible = len(prospect.train), self._possible(data)
        random = self._random(prospect)
        known = {"remove": [weights_of(n, random[:, :k], 0) for k in self._counts(n)]} if "remove" in possible else {}
        designs = [judge.design([np.ones(n, np.uint8), *known.get("remove", [])])]
        if "relabel" in possible:
            designs.append(crossed.design(prospect, self.folds, 1, FOLDS))
        each, altered = len(self.shares) * self.seeds, len(set(possible) - {"remove"})
        return Work(
            trainings=tuple(designs),
            more_trainings=float(each * altered),
            own_trainings=float(len(self.rules) * each * len(possible)),
            more_alone=float(each * altered),  # at random for each seed
            own_alone=float(len(self.rules) * len(self.shares) * altered),
            numbers=2.0 * self.n_boot * self.seeds * len(judge.judging) * (len(self.rules) + 1) * each,
            bytes=24.0 * len(self.shares) * self.seeds * (n + len(prospect.test)) + 8.0 * self.n_boot * len(judge.y),
            formula=(
                f"{self.seeds} seeds x {len(self.shares)} shares x {len(possible)} treatments x "
                f"({len(self.rules)} rules of each estimator + random)"
            ),
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """One row per treatment, rule and share, one per treatment and rule; curves."""
        judge = Judge.of(run, self.seeds)
        inspection = _Inspection(self, run, judge)
        found = {rule: self._scores(rule, influence, judge) for rule in self.rules}
        orders = scores.orders(found)
        curves = inspection.curves({**orders, "random": self._random(run)}, self._possible(run.problem.data))
        rows: list[Measured] = []
        for rule, score in found.items():
            for treatment in self.treatments:
                protocol = sentences(RULES[rule], f"inspected ones {DONE[treatment]}", judge.protocol(self.n_boot))
                if isinstance(score, Unavailable):
                    rows += unavailable(self._names(treatment, rule), score.status, score.note, protocol)
                elif (treatment, rule) not in curves:
                    note = _impossible(treatment, run.problem.data)
                    rows += unavailable(self._names(treatment, rule), "not applicable", note, protocol)
                else:
                    rows += inspection.rows(treatment, rule, curves, orders[rule], protocol)
        return tidy(rows, tables=inspection.tables(curves))

    def _names(self, treatment: str, rule: str) -> list[str]:
        shares = [f"cleaning_{treatment}_{rule}_{percent(share)}" for share in self.shares]
        return [*shares, f"cleaning_area_{treatment}_{rule}"]

    def _scores(self, rule: str, influence: Influence, judge: Judge) -> NDArray[np.float64] | Unavailable:
        """High is suspicious."""
        if rule == "self":
            return scores.by_self(influence)
        total = scores.by_sum(influence, judge.ranking)
        return total if isinstance(total, Unavailable) else -total

    def _possible(self, data: Data) -> list[str]:
        return [treatment for treatment in self.treatments if not _impossible(treatment, data)]

    def _counts(self, n: int) -> list[int]:
        return counts_for(self.shares, n, "metric.cleaning.shares")

    def _random(self, run: Run | Prospect) -> Rows:
        """``(seeds, n)`` a random order of inspection for every seed."""
        return subsets.permutations(run.train.ids, self.seeds, run.drawn("inspected"))


def _impossible(treatment: str, data: Data) -> str:
    """Why a treatment cannot be done, or nothing."""
    if treatment == "remove":
        return ""
    if data.task != "classification":
        return "this is regression: there is no label to change"
    if treatment == "correct" and "original_label" not in data.flags:
        return "the true labels are not known; choose a corruption that records them, such as label_noise"
    return ""


class _Inspection:
    """One evaluation: the models trained after each share of an order was treated."""

    def __init__(self, metric: Cleaning, run: Run, judge: Judge) -> None:
        self.metric, self.run, self.judge = metric, run, judge
        self.counts = metric._counts(len(run.train))
        self.resamples = Resamples.drawn(run, judge, metric.n_boot)
        nothing = {0: np.ones(len(run.train), np.uint8)}
        self.before = judge.refit(run.retrain, nothing, "retraining on everything")[0]

    def curves(self, orders: Mapping[str, Rows], treatments: Sequence[str]) -> dict[tuple[str, str], Curve]:
        """By treatment and order, what training gives after each share."""
        found: dict[tuple[str, str], Curve] = {}
        places = [(rule, place) for rule in orders for place in range(len(self.counts))]
        inspected = {(rule, place): orders[rule][..., : self.counts[place]] for rule, place in places}
        for treatment in treatments:
            if treatment == "remove":
                sets = {key: weights_of(len(self.run.train), rows, 0) for key, rows in inspected.items()}
                made = self.judge.refit(self.run.retrain, sets, "retraining without suspects")
            else:
                labels = self._labels(treatment)
                changed = ((key, self._relabelled(rows, labels)) for key, rows in inspected.items())
                made = self.judge.altered(self.run, changed, "retraining with other labels")
            for rule in orders:
                found[treatment, rule] = [made[rule, place] for place in range(len(self.counts))]
        return found

    def _labels(self, treatment: str) -> NDArray[Any]:
        if treatment == "correct":
            return self.run.problem.data.flags["original_label"]
        return crossed.held_out(self.run, self.metric.folds, 1, FOLDS).prediction

    def _relabelled(self, rows: Rows, labels: NDArray[Any]) -> Data | Iterator[Data]:
        data = self.run.problem.data
        if rows.ndim == 2:
            return (relabelled(data, one, labels) for one in rows)
        return relabelled(data, rows, labels)

    def rows(
        self, treatment: str, rule: str, curves: Mapping[tuple[str, str], Curve], order: Rows, protocol: str
    ) -> Iterator[Measured]:
        """Gain after each share, and the area above the random order."""
        curve, random = curves[treatment, rule], curves[treatment, "random"]
        *names, of_area = self.metric._names(treatment, rule)
        for name, after, chance, count in zip(names, curve, random, self.counts, strict=True):
            gained = float((chance.quality - self.before.quality).mean())
            note = sentences(f"random inspection: {signed(gained)}", self._found(order[:count]))
            yield self.resamples.measured(name, after.quality - self.before.quality, protocol, note)
        differences = [after.quality - chance.quality for after, chance in zip(curve, random, strict=True)]
        yield self.resamples.measured(of_area, area(self.metric.shares, differences), protocol)

    def _found(self, rows: Rows) -> str:
        flags = self.run.problem.data.flags.get("mislabeled")
        if flags is None:
            return ""
        return (
            f"{int(np.asarray(flags)[rows].sum())} of {int(np.sum(flags))} mislabeled are among {len(rows)} inspected"
        )

    def tables(self, curves: Mapping[tuple[str, str], Curve]) -> dict[str, pd.DataFrame]:
        """Quality and loss against the share inspected, for each treatment."""
        found: dict[str, pd.DataFrame] = {}
        for treatment in dict.fromkeys(treatment for treatment, _ in curves):
            series = {}
            for rule in (rule for done, rule in curves if done == treatment):
                title = "random order" if rule == "random" else f"by {rule}"
                path = [self.before, *curves[treatment, rule]]
                series[title] = zip([0.0, *self.metric.shares], path, strict=True)
            found |= self.resamples.curves(f"cleaning_{treatment}", "inspected", self.judge, series)
        return found


def relabelled(data: Data, rows: Rows, labels: NDArray[Any]) -> Data:
    """The data with ``labels`` (n,) instead of their own on some training rows."""
    y = data.train.y.copy()
    y[rows] = labels[rows]
    return replace(data, train=replace(data.train, y=y))
