"""Subsampling: models trained on the most helpful share of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from influx.datasets.split import apportion
from influx.engines import subsets
from influx.influence import Influence
from influx.metrics import scores
from influx.metrics.aligned import Unavailable
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
    signed,
    weights_of,
)
from influx.metrics.spread import Specialised, order
from influx.metrics.statistics import FloatArray, check_resamples
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Data
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NOTHING: Rows = np.empty(0, np.int64)
Key = tuple[str, int]
TEXTS = "distances between tokens mean nothing"
BY_INPUTS: Mapping[Specialised, str] = {
    "herding": "chosen by inputs, whose mean follows that of all",
    "k_centre": "chosen by inputs, the farthest from those kept before",
}


@dataclass(frozen=True, kw_only=True)
class Coreset:
    """Accuracy of models trained on the share of the training instances with the highest influence.

    Measures: training instances are ranked by influence summed over the ranking half of the test instances (``_sum``,
        the most helpful first), by these test instances naming their best proponents in turn (``_turns``, which
        spreads the choice), or by self-influence (``_self``, the most memorised first); models trained on the first
        share alone are judged on the other half. ``coreset_<rule>_<percent>`` is their accuracy,
        ``coreset_gain_<rule>_<percent>`` what it is above that of random subsets of equal size (and, with
        ``balanced``, of equal composition), ``coreset_over_<specialised>_<rule>_<percent>`` above that of as many
        instances chosen by their inputs alone, whose own accuracy and gain stand under ``coreset_<specialised>_…``,
        the same for all estimators. Notes have the accuracy of models trained on everything. Minus the loss
        stands for accuracy where there are no classes. The tables coreset and coreset_loss are the curves.
    Intervals: 95% percentile bootstrap over seeds and judging test instances together, widened for few seeds.
        Every seed has a random subset of its own, the same for all estimators; sizes are nested. An interval is about
        the one subset that was chosen; notes say how far random ones lie apart.
    Needs: retraining.
    Not applicable: a choice by inputs among texts.
    Cost: per estimator rules · shares · seeds trainings, 2 · shares · seeds for random subsets and the specialised
        ones, seeds for everything; n · kept · d to choose by inputs of d numbers.
    Source: survey section 6 (subsampling); Wang et al. 2020 for the sum, Paul et al. 2021 for keeping what is hard.
        One ranking, not taken anew after each choice, so that the sum chooses near copies of a helpful instance
        together with it; turns are an addition against that.

    Attributes:
        shares: of the training instances, kept; ascending.
        rules: self, sum and turns, or some of them.
        specialised: choice by inputs: herding (the mean of those kept follows that of all) or k_centre (the farthest
            from those kept comes next), within every class when ``balanced``.
        balanced: keep the first share of every class instead of all, in proportion to the class.
        seeds: trainings of every condition.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    shares: list[float] = field(default_factory=lambda: [0.1, 0.25, 0.5])
    rules: list[scores.Rule] = field(default_factory=lambda: ["self", "sum", "turns"])
    specialised: Specialised = "herding"
    balanced: bool = True
    seeds: int = 5
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_shares("metric.coreset.shares", self.shares, most=0.99)
        check_chosen("metric.coreset.rules", self.rules, get_args(scores.Rule))
        check_chosen("metric.coreset.specialised", [self.specialised], get_args(Specialised))
        check_seeds("metric.coreset.seeds", self.seeds)
        check_resamples("metric.coreset.n_boot", self.n_boot)

    def plan(self, prospect: Prospect) -> Work:
        """Trainings on random subsets and on everything, and as many as the specialised and one estimator's take.

        Which instances are chosen by their inputs is not worked out here: that takes longer than planning may.
        """
        judge, n = Judge.of(prospect, self.seeds), len(prospect.train)
        sets = [np.ones(n, np.uint8), *self._sets(prospect, self._random(prospect)).values()]
        each = len(self.shares) * self.seeds
        data, by_inputs = prospect.problem.data, self._by_inputs(prospect)
        inputs = float(np.prod(prospect.train.x.shape[1:]))
        seen = n * inputs / (data.n_outputs if self._strata(data) is not None else 1)  # numbers of one class
        kept = self._most(n) if by_inputs else 0
        return Work(
            trainings=(judge.design(sets),),
            more_trainings=float(each if by_inputs else 0),
            own_trainings=float(len(self.rules) * each),
            numbers=6.0 * len(self.rules) * self.n_boot * each * len(judge.y) + kept * seen,
            flops=2.0 * kept * seen,
            bytes=48.0 * each * (n + len(prospect.test)) + 8.0 * self.n_boot * len(judge.y) + 8.0 * seen,
            formula=f"{self.seeds} seeds x {len(self.shares)} shares x ({len(self.rules)} rules of each estimator "
            f"+ {' + '.join(['random', self.specialised][: 1 + by_inputs])})",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows per rule and share, two per share for the choice by inputs; curves."""
        judge = Judge.of(run, self.seeds)
        found: dict[str, FloatArray | Unavailable] = {}
        found |= {rule: scores.by_rule(rule, influence, judge.ranking) for rule in self.rules}
        orders = scores.orders(found) | self._common(run)
        sets: dict[Key, NDArray[Any]] = {("full", 0): np.ones(len(run.train), np.uint8)}
        for kind, ranked in orders.items():
            sets |= {(kind, place): kept for place, kept in self._sets(run, ranked).items()}
        made = judge.refit(run.retrain, sets, "retraining on subsets")
        resamples = Resamples.drawn(run, judge, self.n_boot)
        each = "of every class" if self._strata(run.problem.data) is not None else ""
        rows: list[Measured] = []
        for rule in (*self.rules, self.specialised):
            score, first_ones = found.get(rule), scores.FIRST.get(rule, BY_INPUTS[self.specialised])
            protocol = sentences(f"kept: {first_ones}", each, judge.protocol(self.n_boot))
            if isinstance(score, Unavailable):
                rows += unavailable(self._names(rule), score.status, score.note, protocol)
            elif rule not in orders:
                rows += unavailable(self._names(rule), "not applicable", TEXTS, protocol)
            else:
                rows += self._rows(rule, made, resamples, protocol)
        return tidy(rows, tables=self._tables(made, orders, resamples, judge))

    def _names(self, rule: str) -> list[str]:
        kinds = ("", "gain_") if rule == self.specialised else ("", "gain_", f"over_{self.specialised}_")
        return [f"coreset_{kind}{rule}_{percent(share)}" for share in self.shares for kind in kinds]

    def _rows(self, rule: str, made: Mapping[Key, Refitted], resamples: Resamples, protocol: str) -> Iterator[Measured]:
        names, everything = iter(self._names(rule)), float(made["full", 0].quality.mean())
        for place in range(len(self.shares)):
            kept, random = made[rule, place].quality, made["random", place].quality
            note = f"trained on everything: {everything:.4f}; on a random subset: {by_draw(random)}"
            yield resamples.measured(next(names), kept, protocol, note)
            against = f"everything against a random subset: {signed(everything - float(random.mean()))}"
            yield resamples.measured(next(names), kept - random, protocol, against)
            if rule == self.specialised:
                continue
            name, said = next(names), sentences(protocol, f"against: {BY_INPUTS[self.specialised]}")
            if (self.specialised, place) in made:
                other = made[self.specialised, place].quality
                yield resamples.measured(name, kept - other, said, f"by {self.specialised}: {other.mean():.4f}")
            else:
                yield from unavailable([name], "not applicable", TEXTS, said)

    def _tables(
        self, made: Mapping[Key, Refitted], orders: Mapping[str, Rows], resamples: Resamples, judge: Judge
    ) -> dict[str, pd.DataFrame]:
        series = {}
        for kind in orders:
            ends = [*(made[kind, place] for place in range(len(self.shares))), made["full", 0]]
            title = kind if kind == "random" else f"by {kind}"
            series[title] = zip([*self.shares, 1.0], ends, strict=True)
        return resamples.curves("coreset", "kept", judge, series)

    def _strata(self, data: Data) -> NDArray[Any] | None:
        return data.train.y if self.balanced and data.task == "classification" else None

    def _common(self, run: Run) -> dict[str, Rows]:
        """Orders that all estimators share: (seeds, n) at random, and (n,) by inputs where these have distances."""
        found = {"random": self._random(run)}
        if self._by_inputs(run):
            most, strata = self._most(len(run.train)), self._strata(run.problem.data)
            found[self.specialised] = order(self.specialised, run.train, most, strata)
        return found

    def _random(self, run: Run | Prospect) -> Rows:
        return subsets.permutations(run.train.ids, self.seeds, run.drawn("coreset"))

    def _by_inputs(self, run: Run | Prospect) -> bool:
        return run.problem.data.kind != "text"

    def _most(self, n: int) -> int:
        return counts_for(self.shares, n, "metric.coreset.shares")[-1]

    def _sets(self, run: Run | Prospect, orders: Rows) -> dict[int, NDArray[np.uint8]]:
        """Weights of the first of ``orders``, (n,) or (seeds, n), for every share."""
        n, strata = len(run.train), self._strata(run.problem.data)
        counts = counts_for(self.shares, n, "metric.coreset.shares")
        found = {}
        for place, count in enumerate(counts):
            kept = np.apply_along_axis(first, -1, orders, count, strata)
            found[place] = weights_of(n, kept, 1)
        return found


def first(order: Rows, count: int, strata: NDArray[Any] | None) -> Rows:
    """The first ``count`` rows of an order (n,), or of each class's part of it in proportion to the class."""
    if strata is None:
        return order[:count]
    labels = strata[order]
    quota = apportion(np.bincount(labels), count)
    return np.concatenate([NOTHING, *(order[labels == label][:most] for label, most in enumerate(quota.tolist()))])
