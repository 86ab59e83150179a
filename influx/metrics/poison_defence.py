"""Defence against poisoning: what removing the most suspicious training instances leaves of an attack."""

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
from influx.metrics.attacks import Attack, attack_on
from influx.metrics.refit import (
    Refitted,
    Resamples,
    Rows,
    certain,
    check_chosen,
    check_seeds,
    check_shares,
    counts_for,
    percent,
    weights_of,
)
from influx.metrics.statistics import FloatArray, check_resamples
from influx.metrics.target_identification import upper_tail
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

Rule = Literal["sum", "tail", "spectral"]
RULES: Mapping[str, str] = {
    "sum": "suspect: influence towards the attack, summed over attacked test instances that the defender knows",
    "tail": "suspect: influence towards the attack, summed over the test instances with the heaviest tail",
    "spectral": "suspect: large square of the first principal component of the inputs of its class (no influence)",
}
KINDS = ("success", "cut", "accuracy")
Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class PoisonDefence:
    """Success of a backdoor or poisoning, and clean accuracy, after removing suspects and training anew.

    Measures: training instances are ranked by ``rules``. sum: influence summed over attacked test instances (their
        labels true: the lowest are suspicious; their labels the attacker's: the highest). tail: the defender does not
        know which are attacked and sums over the ``identified`` test instances whose ``k``-th most suspicious
        influence is the most robust standard deviations from the median. spectral: the specialised baseline, without
        influence. After each share of ``shares`` is removed, models are trained anew:
        ``defence_success_<rule>_<percent>`` is the attack's success rate, ``defence_cut_<rule>_<percent>`` what it is
        below that after random removal, ``defence_accuracy_<rule>_<percent>`` the accuracy on clean test instances.
        Notes have the numbers before and after random removal and after removal of all poison. The tables
        defence_success and defence_accuracy are the curves.
    Intervals: 95% percentile bootstrap over seeds and test instances together, widened for the number of seeds;
        Wilson's where a share is 0 or 1. Random removal has an order of its own for every seed, the same for all
        estimators.
    Not applicable: no corruption=backdoor with corruption.test=half, and no corruption=poison.
    Needs: retraining.
    Cost: per estimator rules · shares · seeds trainings; (shares + 2) · seeds for random removal, none and all poison.
    Source: Hammoudeh & Lowd 2022, arXiv:2201.10055, section 6, for the tail and mitigation (there step by step until
        the target's label changes, here fixed shares); Tran et al. 2018, arXiv:1811.00636 for spectral signatures
        (there of learned features).

    Attributes:
        shares: of the training instances, removed; ascending.
        rules: sum, tail and spectral, or some of them.
        identified: test instances that tail takes for attacked.
        k: which influence from the top has to be large for a heavy tail.
        seeds: trainings of every condition.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    shares: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2])
    rules: list[Rule] = field(default_factory=lambda: ["sum", "tail", "spectral"])
    identified: int = 10
    k: int = 5
    seeds: int = 5
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_shares("metric.poison_defence.shares", self.shares, most=0.9)
        check_chosen("metric.poison_defence.rules", self.rules, get_args(Rule))
        check_seeds("metric.poison_defence.seeds", self.seeds)
        check_resamples("metric.poison_defence.n_boot", self.n_boot)
        for name, value in (("identified", self.identified), ("k", self.k)):
            if value < 1:
                raise ConfigError(f"metric.poison_defence.{name} must be at least 1, got {value}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """Trainings of what is known beforehand, and as many as one estimator's orders take."""
        attack, n = attack_on(prospect, self.seeds), len(prospect.train)
        if isinstance(attack, str):
            return Work()
        known = self._sets(attack, {"random": self._random(prospect)}, n)
        more = len(self.rules) * len(self.shares) * self.seeds
        return Work(
            trainings=(attack.success.design(known.values()),),
            more_trainings=float(more),
            numbers=4.0 * more * self.n_boot * len(prospect.test),
            bytes=24.0 * more * (n + len(prospect.test)),
            formula=f"{self.seeds} seeds x ({len(self.rules)} rules + random) x {len(self.shares)} shares",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows per rule and share; curves."""
        attack = attack_on(run, self.seeds)
        if isinstance(attack, str):
            names = [name for rule in self.rules for name in self._names(rule)]
            return tidy(unavailable(names, "not applicable", attack))
        heavy = self._identified(influence, attack, run)
        found = {rule: self._scores(rule, influence, attack, run, heavy) for rule in self.rules}
        orders: dict[str, Rows] = {
            rule: scores.descending(score, run.train.ids)
            for rule, score in found.items()
            if not isinstance(score, Unavailable)
        }
        sets = self._sets(attack, {**orders, "random": self._random(run)}, len(run.train))
        success, accuracy = (
            judge.refit(run.retrain, sets, "retraining without suspects") for judge in (attack.success, attack.accuracy)
        )
        ends = {
            "success": Resamples.drawn(run, attack.success, self.n_boot),
            "accuracy": Resamples.drawn(run, attack.accuracy, self.n_boot),
        }
        rows: list[Measured] = []
        for rule, score in found.items():
            protocol = sentences(RULES[rule], attack.protocol, self._protocol(rule, heavy))
            if isinstance(score, Unavailable):
                rows += unavailable(self._names(rule), score.status, score.note, protocol)
            else:
                rows += self._rows(rule, orders[rule], attack.guilty, success, accuracy, ends, protocol)
        return tidy(rows, tables=self._tables(orders, success, accuracy, ends))

    def _names(self, rule: str) -> list[str]:
        return [f"defence_{kind}_{rule}_{percent(share)}" for share in self.shares for kind in KINDS]

    def _protocol(self, rule: str, heavy: Rows | Unavailable) -> str:
        how = ""
        if rule == "tail" and not isinstance(heavy, Unavailable):
            fewer = f" instead of {self.identified}, no others have a tail" if len(heavy) < self.identified else ""
            how = f"tail: {len(heavy)} test instances identified{fewer}, k={self.k}"
        return sentences(
            how,
            f"{self.seeds} seeds, each with its own random draw; loss_norm=subset, steps as on everything; ties by id",
            f"95% CI: bootstrap over seeds and test instances x{self.n_boot}, widened for {self.seeds} seeds",
        )

    def _scores(
        self, rule: str, influence: Influence, attack: Attack, run: Run, heavy: Rows | Unavailable
    ) -> FloatArray | Unavailable:
        """``(n,)`` suspicion, high is suspicious."""
        if rule == "spectral":
            return scores.usable(spectral(run.train.x, run.train.y))
        columns = attack.known if rule == "sum" else heavy
        if isinstance(columns, Unavailable):
            return columns
        total = scores.by_sum(influence, columns)
        return total if isinstance(total, Unavailable) else attack.sign * total

    def _identified(self, influence: Influence, attack: Attack, run: Run) -> Rows | Unavailable:
        """Watched test rows with the heaviest tails towards the attack, those without a finite tail left out."""
        values = np.asarray(influence.values[:, attack.watched])  # their rounding counts, so their dtype stays
        values = values if attack.sign > 0 else -values
        if self.k > len(values):
            note = f"metric.poison_defence.k={self.k} is more than {len(values)} training instances; lower it"
            return Unavailable(status="not applicable", note=note)
        tail = upper_tail(values, self.k)
        known = np.flatnonzero(np.isfinite(tail))
        if not len(known):
            return Unavailable(status="degenerate", note="no test instance has a spread of influence")
        rows = attack.watched[known]
        return rows[scores.descending(tail[known], run.test.ids[rows])[: self.identified]]

    def _random(self, run: Run | Prospect) -> Rows:
        """``(seeds, n)`` a random order of removal for every seed."""
        return subsets.permutations(run.train.ids, self.seeds, run.drawn("inspected"))

    def _sets(self, attack: Attack, orders: Mapping[str, Rows], n: int) -> dict[Key, NDArray[Any]]:
        """Instance weights of every condition: nothing, all poison, and each share of each order removed."""
        counts = counts_for(self.shares, n, "metric.poison_defence.shares")
        sets: dict[Key, NDArray[Any]] = {
            ("none", 0): np.ones(n, np.uint8),
            ("all", 0): (~attack.guilty).astype(np.uint8),
        }
        for rule, order in orders.items():
            sets |= {(rule, place): weights_of(n, order[..., :k], 0) for place, k in enumerate(counts)}
        return sets

    def _rows(
        self,
        rule: str,
        order: Rows,
        guilty: NDArray[np.bool_],
        success: Mapping[Key, Refitted],
        accuracy: Mapping[Key, Refitted],
        ends: Mapping[str, Resamples],
        protocol: str,
    ) -> Iterator[Measured]:
        names, counts = iter(self._names(rule)), counts_for(self.shares, len(guilty), "metric.poison_defence.shares")
        for place, count in enumerate(counts):
            caught = f"{int(guilty[order[:count]].sum())} of {int(guilty.sum())} poisoned among {count} removed"
            after, chance = success[rule, place].quality, success["random", place].quality
            note = sentences(_beside(success, place), caught)
            yield certain(ends["success"].measured(next(names), after, protocol, note))
            yield ends["success"].measured(next(names), chance - after, protocol, caught)
            kept = accuracy[rule, place].quality
            yield certain(ends["accuracy"].measured(next(names), kept, protocol, _beside(accuracy, place)))

    def _tables(
        self,
        orders: Mapping[str, Rows],
        success: Mapping[Key, Refitted],
        accuracy: Mapping[Key, Refitted],
        ends: Mapping[str, Resamples],
    ) -> dict[str, pd.DataFrame]:
        import pandas as pd

        tables: dict[str, pd.DataFrame] = {}
        for kind, made in (("success", success), ("accuracy", accuracy)):
            points = []
            for rule in (*orders, "random"):
                at = [made["none", 0], *(made[rule, place] for place in range(len(self.shares)))]
                for share, refitted in zip([0.0, *self.shares], at, strict=True):
                    series = "random order" if rule == "random" else f"by {rule}"
                    points.append(ends[kind].point(series, {"removed": share}, kind, refitted.quality))
            tables[f"defence_{kind}"] = pd.DataFrame(points)
        return tables


def _beside(made: Mapping[Key, Refitted], place: int) -> str:
    """The same number under the conditions that need no influence."""
    numbers = {
        "before": made["none", 0],
        "random removal": made["random", place],
        "all poison removed": made["all", 0],
    }
    return ", ".join(f"{name}: {refitted.quality.mean():.4f}" for name, refitted in numbers.items())


def spectral(x: NDArray[Any], y: NDArray[Any]) -> FloatArray:
    """``(n,)`` square of each instance's projection on the first principal component of the inputs of its class."""
    flat = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    found = np.zeros(len(flat))
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        centred = flat[rows] - flat[rows].mean(axis=0)
        found[rows] = (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2
    return found
