"""Influence-guided augmentation: changed copies of some training instances instead of any or all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, get_args

import numpy as np

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import scores
from influx.metrics.aligned import Unavailable
from influx.metrics.augmented import AMOUNT, DIRECTIONS, Transform, augmented, check_amount, unfit
from influx.metrics.refit import (
    Judge,
    Refitted,
    Resamples,
    Rows,
    by_draw,
    check_chosen,
    check_seeds,
    check_shares,
    counts_for,
    percent,
)
from influx.metrics.statistics import check_resamples
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Data
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

EVERYTHING = "augmentation_everything"
Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Accuracy gained by augmenting the training instances with the highest influence.

    Measures: the share with the highest self-influence (``_self``, the most memorised), the highest influence summed
        over the ranking half of the test instances (``_sum``), or named first when these name their best proponents
        in turn (``_turns``) gets ``copies`` changed copies, which are added to the training set.
        ``augmentation_<rule>_<percent>`` is the accuracy gained on the judging half against no augmentation,
        ``augmentation_gain_<rule>_<percent>`` what it is above that of augmenting as many random instances,
        ``augmentation_everything`` the accuracy gained by augmenting all. Minus the loss stands for accuracy where
        there are no classes. The tables augmentation and augmentation_loss are the curves.
    Limits: a training on more rows has more steps, so only numbers of one share are of one length; the difference
        from random augmentation is.
    Intervals: 95% percentile bootstrap over seeds and judging test instances together, widened for few seeds.
        Every seed has a random choice of its own, the same for all estimators; shares are nested.
    Needs: retraining; images for ``transform=shift``.
    Cost: per estimator rules · shares · seeds trainings on up to 1 + share · copies of the data, and as many as one
        rule takes for random choices, 2 · seeds for none and everything.
    Source: survey section 6 (augmentation); Lee et al. 2020 and Oh et al. 2021 learn the copies by influence, this
        is their choice of instances alone.

    Attributes:
        shares: of the training instances, augmented; ascending.
        rules: self, sum and turns, or some of them.
        transform: shift moves images, copy after copy down, up, right, left and diagonally; noise adds Gaussian
            noise to inputs.
        amount: pixels of a shift, or the noise's standard deviation in units of the inputs.
        copies: of each augmented instance.
        seeds: trainings of every condition.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    shares: list[float] = field(default_factory=lambda: [0.1, 0.25])
    rules: list[scores.Rule] = field(default_factory=lambda: ["self", "sum", "turns"])
    transform: Transform = "shift"
    amount: float = 0.5
    copies: int = 4
    seeds: int = 5
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_shares("metric.augmentation.shares", self.shares, most=0.99)
        check_chosen("metric.augmentation.rules", self.rules, get_args(scores.Rule))
        check_seeds("metric.augmentation.seeds", self.seeds)
        check_resamples("metric.augmentation.n_boot", self.n_boot)
        if self.transform not in get_args(Transform):
            choices = " or ".join(get_args(Transform))
            raise ConfigError(f"metric.augmentation.transform must be {choices}, got {self.transform!r}; change it")
        if not 0 < self.amount < math.inf:
            raise ConfigError(f"{AMOUNT} must be a finite number above 0, got {self.amount}; change it")
        if not 1 <= self.copies <= len(DIRECTIONS):
            raise ConfigError(
                f"metric.augmentation.copies must be from 1 to {len(DIRECTIONS)}, got {self.copies}; change it"
            )

    def plan(self, prospect: Prospect) -> Work:
        """Trainings on the data as they are, and as many as one estimator and random choices take on more rows."""
        if unfit(self.transform, prospect.problem.data):
            return Work()
        check_amount(self.transform, self.amount, prospect.problem.data)
        judge, n = Judge.of(prospect, self.seeds), len(prospect.train)
        self._counts(n)
        longer = 1 + self.copies * np.array(self.shares)  # a training on more rows, in trainings on these
        each = self.seeds * float(longer.sum())
        return Work(
            trainings=(judge.design([np.ones(n, np.uint8)]),),
            more_trainings=each + self.seeds * (1.0 + self.copies),
            own_trainings=len(self.rules) * each,
            more_alone=each + 1.0 + self.copies,  # at random for each seed
            own_alone=len(self.rules) * float(longer.sum()),
            numbers=4.0 * self.n_boot * len(self.rules) * len(self.shares) * self.seeds * len(judge.y),
            bytes=4.0 * (1 + self.copies) * prospect.train.x.size + 8.0 * self.n_boot * len(judge.y),
            formula=f"{self.seeds} seeds x {len(self.shares)} shares x ({len(self.rules)} rules of each estimator + "
            "random), on more rows",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Two rows per rule and share, and that of everything; curves."""
        judge, reason = Judge.of(run, self.seeds), unfit(self.transform, run.problem.data)
        everything = [name for rule in self.rules for name in self._names(rule)]
        if reason:
            return tidy(unavailable([*everything, EVERYTHING], "not applicable", reason))
        check_amount(self.transform, self.amount, run.problem.data)
        found = {rule: scores.by_rule(rule, influence, judge.ranking) for rule in self.rules}
        orders = scores.orders(found)
        made = self._made(run, judge, {**orders, "random": self._random(run)})
        resamples = Resamples.drawn(run, judge, self.n_boot)
        rows: list[Measured] = []
        for rule, score in found.items():
            protocol = self._protocol(f"augmented: {scores.FIRST[rule]}", judge)
            if isinstance(score, Unavailable):
                rows += unavailable(self._names(rule), score.status, score.note, protocol)
            else:
                rows += self._rows(rule, made, resamples, protocol)
        gained = made["everything", 0].quality - made["none", 0].quality
        rows.append(resamples.measured(EVERYTHING, gained, self._protocol("augmented: everything", judge)))
        return tidy(rows, tables=self._tables(made, orders, resamples, judge))

    def _protocol(self, rule: str, judge: Judge) -> str:
        unit = "pixels" if self.transform == "shift" else "standard deviation"
        how = f"{self.copies} copies each, {self.transform} of {self.amount:g} {unit}; steps grow with the rows"
        return sentences(rule, how, judge.protocol(self.n_boot))

    def _names(self, rule: str) -> list[str]:
        kinds = ("", "gain_")
        return [f"augmentation_{kind}{rule}_{percent(share)}" for share in self.shares for kind in kinds]

    def _counts(self, n: int) -> list[int]:
        return counts_for(self.shares, n, "metric.augmentation.shares")

    def _random(self, run: Run) -> Rows:
        return subsets.permutations(run.train.ids, self.seeds, run.drawn("augmented"))

    def _made(self, run: Run, judge: Judge, orders: Mapping[str, Rows]) -> dict[Key, Refitted]:
        """Models trained with copies of the first of each order, (n,) or (seeds, n), with all copies, and with none."""

        def copied(rows: Rows) -> Data:
            return augmented(run, rows, self.transform, self.amount, self.copies)

        n = len(run.train)
        nothing = judge.refit(run.retrain, {("none", 0): np.ones(n, np.uint8)}, "retraining on everything")

        def changed() -> Iterator[tuple[Key, Data | Iterator[Data]]]:
            yield ("everything", 0), copied(np.arange(n))
            for rule, order in orders.items():
                for place, count in enumerate(self._counts(n)):
                    some = order[..., :count]
                    yield (rule, place), copied(some) if some.ndim == 1 else (copied(rows) for rows in some)

        return nothing | judge.altered(run, changed(), "retraining with copies")

    def _rows(self, rule: str, made: Mapping[Key, Refitted], resamples: Resamples, protocol: str) -> Iterator[Measured]:
        before, names = made["none", 0].quality, iter(self._names(rule))
        for place in range(len(self.shares)):
            after, chance = made[rule, place].quality, made["random", place].quality
            note = f"without augmentation: {before.mean():.4f}; of random instances: {by_draw(chance)}"
            yield resamples.measured(next(names), after - before, protocol, note)
            yield resamples.measured(next(names), after - chance, protocol, note)

    def _tables(
        self, made: Mapping[Key, Refitted], orders: Mapping[str, Rows], resamples: Resamples, judge: Judge
    ) -> dict[str, pd.DataFrame]:
        series = {}
        for rule in (*orders, "random"):
            ends = [made["none", 0], *(made[rule, place] for place in range(len(self.shares))), made["everything", 0]]
            title = rule if rule == "random" else f"by {rule}"
            series[title] = zip([0.0, *self.shares, 1.0], ends, strict=True)
        return resamples.curves("augmentation", "augmented", judge, series)
