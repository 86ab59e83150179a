"""Group fairness: does removing what widens the gap between two groups narrow it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import scores
from influx.metrics.aligned import Unavailable
from influx.metrics.demography import Groups, groups_of, reweighed
from influx.metrics.refit import (
    Judge,
    Refitted,
    Rows,
    check_seeds,
    check_shares,
    counts_for,
    percent,
    signed,
    weights_of,
)
from influx.metrics.statistics import FloatArray, check_resamples, counts_of, interval, resample
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

SETTING = "metric.group_fairness"
Gap = Literal["loss", "accuracy"]
Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class GroupFairness:
    """Gap of loss or accuracy between two groups of test instances, after removing what is said to widen it.

    Measures: the gap is the mean loss (or error rate) of the worse group minus that of the other; which one is worse is
        decided by the run's own model on the ranking half of the test instances. Removing training instance i should
        change it by mean influence of i on the worse group's ranking tests minus mean influence on the other's. After
        the instances with the lowest such value are removed, up to each share of ``shares``, models are trained anew:
        ``fairness_gap_<percent>`` is the gap on the judging half, ``fairness_cut_<percent>`` what its size is below
        that after random removal (positive is fairer; a gap turned round is no gain), ``fairness_accuracy_<percent>``
        the accuracy over both groups (minus the loss without classes). ``fairness_before`` is the gap without removal,
        ``fairness_reweighed`` that of models with the weights of Kamiran & Calders, the specialised baseline. The table
        fairness is the curve.
    Intervals: 95% percentile bootstrap over seeds and, in each group apart, test instances. Random removal has an order
        of its own for every seed, the same for all estimators.
    Not applicable: no such groups in the data; a group without test instances in one half; gap=accuracy of a
        regression; reweighing where groups are classes.
    Needs: retraining.
    Cost: per estimator shares · seeds trainings; (shares + 2) · seeds for random removal, none and reweighing.
    Source: Black & Fredrikson 2021 ask it of single instances; the influence on a gap is that of Wang, Wang & Liu
        2022 (instance-level impact of fairness constraints), here on a group loss; Kamiran & Calders 2012 for weights.

    Attributes:
        feature: name of a column, which splits at its training median; null for classes.
        classes: two classes to compare; null for a column.
        gap: of loss or accuracy.
        shares: of the training instances, removed; ascending.
        seeds: trainings of every condition.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    feature: str | None = None
    classes: list[str] | None = None
    gap: Gap = "loss"
    shares: list[float] = field(default_factory=lambda: [0.02, 0.05, 0.1])
    seeds: int = 5
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_shares(f"{SETTING}.shares", self.shares, most=0.9)
        check_seeds(f"{SETTING}.seeds", self.seeds)
        check_resamples(f"{SETTING}.n_boot", self.n_boot)
        if self.gap not in get_args(Gap):
            raise ConfigError(f"{SETTING}.gap must be loss or accuracy, got {self.gap!r}; change it")

    def plan(self, prospect: Prospect) -> Work:
        """Trainings of what is known beforehand, and as many as one estimator's order takes."""
        groups, n = self._groups(prospect), len(prospect.train)
        if isinstance(groups, str):
            return Work()
        judge = Judge.of(prospect, self.seeds)
        known = self._sets({"random": self._random(prospect)}, prospect, groups)
        weighted = [judge.design([weights]) for weights in known.values() if weights.dtype != np.uint8]
        plain = judge.design([weights for weights in known.values() if weights.dtype == np.uint8])
        more = len(self.shares) * self.seeds
        return Work(
            trainings=(plain, *weighted),
            more_trainings=float(more),
            numbers=8.0 * more * self.n_boot * len(prospect.test),
            bytes=48.0 * more * (n + len(prospect.test)),
            formula=f"{self.seeds} seeds x (2 x {len(self.shares)} shares + 2)",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Two rows without removal and three per share; a curve."""
        groups = self._groups(run)
        if isinstance(groups, str):
            return tidy(unavailable(self._names(), "not applicable", groups))
        judge = Judge.of(run, self.seeds)
        sign, worse, other = self._order(run, judge, groups)
        between = _Between(self, run, judge, worse, other)
        protocol = self._protocol(judge, groups, sign, between)
        score = self._scores(influence, judge, worse, other)
        orders: dict[str, Rows] = {"random": self._random(run)}
        if not isinstance(score, Unavailable):
            orders["influence"] = scores.descending(-score)
        made: dict[Key, Refitted] = {}
        sets = self._sets(orders, run, groups)
        for kind in (np.uint8, np.float64):
            part = {key: weights for key, weights in sets.items() if weights.dtype == kind}
            made |= judge.refit(run.retrain, part, "retraining for fairness")
        rows = list(self._fixed(made, between, protocol))
        if isinstance(score, Unavailable):
            rows += unavailable(self._names()[2:], score.status, score.note, protocol)
        else:
            order, units = orders["influence"], influence.scale == "loss" and self.gap == "loss"
            rows += self._rows(made, between, score if units else None, order, protocol)
        return tidy(rows, tables={"fairness": self._curve(made, between, orders)})

    def _groups(self, run: Run | Prospect) -> Groups | str:
        data = run.problem.data
        groups = groups_of(data, SETTING, self.feature, self.classes)
        if isinstance(groups, str):
            return groups
        if self.gap == "accuracy" and data.task != "classification":
            return f"this is regression: there is no accuracy; set {SETTING}.gap=loss"
        judge = Judge.of(run, self.seeds)
        least = min(int(side[half].sum()) for side in groups.test for half in (judge.ranking, judge.judging))
        return groups if least > 1 else "a group has fewer than two test instances in one half; raise dataset.n_test"

    def _names(self) -> list[str]:
        each = [f"fairness_{kind}_{percent(share)}" for share in self.shares for kind in ("gap", "cut", "accuracy")]
        return ["fairness_before", "fairness_reweighed", *each]

    def _order(self, run: Run, judge: Judge, groups: Groups) -> tuple[float, NDArray[np.bool_], NDArray[np.bool_]]:
        """1 or -1, and membership of test instances in the worse group and in the other."""
        outcomes = run.outcomes(run.test)
        bad = outcomes.loss if self.gap == "loss" else outcomes.prediction != run.test.y
        first, second = groups.test
        difference = bad[judge.ranking][first[judge.ranking]].mean() - bad[judge.ranking][second[judge.ranking]].mean()
        return (1.0, first, second) if difference >= 0 else (-1.0, second, first)

    def _scores(
        self, influence: Influence, judge: Judge, worse: NDArray[np.bool_], other: NDArray[np.bool_]
    ) -> FloatArray | Unavailable:
        """``(n,)`` predicted change of the gap by removing an instance."""
        means = []
        for side in (worse, other):
            columns = judge.ranking[side[judge.ranking]]
            with np.errstate(invalid="ignore"):  # inf - inf is NaN, and refused below
                means.append(np.mean(influence.values[:, columns], axis=1, dtype=np.float64))
        with np.errstate(invalid="ignore"):
            difference = means[0] - means[1]
            rounding = 8 * np.finfo(influence.values.dtype).eps * np.maximum(*np.abs(means))
        if (np.abs(difference) <= rounding).all():
            return Unavailable(status="degenerate", note="influence on both groups is the same")
        return scores.usable(np.asarray(difference))

    def _random(self, run: Run | Prospect) -> Rows:
        """``(seeds, n)`` a random order of removal for every seed."""
        return subsets.permutations(run.train.ids, self.seeds, run.drawn("inspected"))

    def _sets(self, orders: Mapping[str, Rows], run: Run | Prospect, groups: Groups) -> dict[Key, NDArray[Any]]:
        n, data = len(run.train), run.problem.data
        counts = counts_for(self.shares, n, f"{SETTING}.shares")
        sets: dict[Key, NDArray[Any]] = {("none", 0): np.ones(n, np.uint8)}
        if self.feature is not None and data.task == "classification":
            sets["reweighed", 0] = reweighed(data.train.y, groups.train[0])
        for name, order in orders.items():
            sets |= {(name, place): weights_of(n, order[..., :k], 0) for place, k in enumerate(counts)}
        return sets

    def _fixed(self, made: Mapping[Key, Refitted], between: _Between, protocol: str) -> Iterator[Measured]:
        """The gap of all data, and of the specialised baseline."""
        before, weighted = self._names()[:2]
        yield between.measured(before, made["none", 0], protocol)
        if ("reweighed", 0) in made:
            yield between.measured(weighted, made["reweighed", 0], sentences("weights: Kamiran & Calders", protocol))
        else:
            reason = "weights that make group and label independent need classes and a column as the group"
            yield from unavailable([weighted], "not applicable", reason, protocol)

    def _rows(
        self, made: Mapping[Key, Refitted], between: _Between, score: FloatArray | None, order: Rows, protocol: str
    ) -> Iterator[Measured]:
        """``score`` are predicted changes of the gap, where they have its unit."""
        names, before = iter(self._names()[2:]), between.value(made["none", 0])
        for place, count in enumerate(counts_for(self.shares, len(order), f"{SETTING}.shares")):
            after, chance = made["influence", place], made["random", place]
            note = sentences(
                f"{count} removed; before: {before:.4f}, random removal: {between.value(chance):.4f}",
                f"measured change: {signed(between.value(after) - before)}",
                f"predicted: {signed(float(score[order[:count]].sum()))}" if score is not None else "",
                "the halves disagree on which group is worse" if before < 0 else "",
            )
            yield between.measured(next(names), after, protocol, note)
            yield between.measured(next(names), after, protocol, note, chance)
            told = f"before: {made['none', 0].quality[:, between.both].mean():.4f}"
            yield between.accuracy(next(names), after, protocol, told)

    def _curve(self, made: Mapping[Key, Refitted], between: _Between, orders: Mapping[str, Rows]) -> pd.DataFrame:
        import pandas as pd

        points = []
        for name in orders:
            at = [made["none", 0], *(made[name, place] for place in range(len(self.shares)))]
            for share, refitted in zip([0.0, *self.shares], at, strict=True):
                low, high = between.interval(refitted)
                series = "random order" if name == "random" else "by influence"
                gap = {f"gap_of_{self.gap}": between.value(refitted)}
                points.append({"series": series, "removed": share, **gap, "ci_low": low, "ci_high": high})
        return pd.DataFrame(points)

    def _protocol(self, judge: Judge, groups: Groups, sign: float, between: _Between) -> str:
        names = groups.names if sign > 0 else groups.names[::-1]
        kind = "mean loss" if self.gap == "loss" else "error rate"
        return sentences(
            f"gap: {kind} of {names[0]} ({len(between.first)} tests) minus that of {names[1]} ({len(between.second)})",
            f"judged on these; the other {len(judge.ranking)} test instances rank and say which group is worse",
            f"{self.seeds} seeds, each with its own random draw; loss_norm=subset, steps as on everything; ties by row "
            "index",
            f"95% CI: bootstrap over seeds and test instances of each group x{self.n_boot}",
        )


class _Between:
    """The gap on the judging half, and its bootstrap: seeds and the test instances of each group."""

    def __init__(
        self, metric: GroupFairness, run: Run, judge: Judge, worse: NDArray[np.bool_], other: NDArray[np.bool_]
    ) -> None:
        self.kind = metric.gap
        self.first, self.second = (np.flatnonzero(side[judge.judging]) for side in (worse, other))
        self.both = np.union1d(self.first, self.second)
        sizes = {"training seeds": judge.seeds, "worse group": len(self.first), "other group": len(self.second)}
        self.shares = [counts_of(resample(run.rng(what), k, metric.n_boot)) / k for what, k in sizes.items()]

    def _bad(self, made: Refitted) -> FloatArray:
        return made.loss if self.kind == "loss" else 1 - made.quality

    def value(self, made: Refitted) -> float:
        """The gap."""
        bad = self._bad(made)
        return float(bad[:, self.first].mean() - bad[:, self.second].mean())

    def _samples(self, made: Refitted) -> FloatArray:
        seeds, first, second = self.shares
        bad = seeds @ self._bad(made)
        return np.asarray((bad[:, self.first] * first).sum(axis=1) - (bad[:, self.second] * second).sum(axis=1))

    def interval(self, made: Refitted) -> tuple[float, float]:
        """95% interval of the gap."""
        return interval(self._samples(made))

    def measured(
        self, name: str, made: Refitted, protocol: str, note: str = "", against: Refitted | None = None
    ) -> Measured:
        """The gap, or how far its size is below that of another condition."""
        value, samples = self.value(made), self._samples(made)
        if against is not None:
            value = abs(self.value(against)) - abs(value)
            samples = np.abs(self._samples(against)) - np.abs(samples)
        return self._row(name, value, samples, protocol, note)

    def accuracy(self, name: str, made: Refitted, protocol: str, note: str) -> Measured:
        """Quality over both groups together."""
        seeds, first, second = self.shares
        right, sizes = seeds @ made.quality, (len(self.first), len(self.second))
        parts = [(right[:, rows] * w).sum(axis=1) for rows, w in ((self.first, first), (self.second, second))]
        samples = (sizes[0] * parts[0] + sizes[1] * parts[1]) / sum(sizes)
        return self._row(name, float(made.quality[:, self.both].mean()), samples, protocol, note)

    def _row(self, name: str, value: float, samples: FloatArray, protocol: str, note: str) -> Measured:
        low, high = interval(samples)
        n = len(self.both)
        return Measured(metric=name, value=value, ci_low=low, ci_high=high, n=n, protocol=protocol, note=note)
