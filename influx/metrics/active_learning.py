"""Active learning: which instances of a pool to add, and what adding each of them does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import add_one, scores
from influx.metrics.aligned import MIN_ROWS, Unavailable
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
    weights_of,
)
from influx.metrics.statistics import FloatArray, check_resamples
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Data, Split
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

Rule = Literal["sum", "turns"]
AGAINST = ("random", "uncertainty")
SEEN = "the influences come from a model trained on everything, the pool and its labels included"
NO_CLASSES = "this is regression: there is no predicted class to be confident of"
Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class ActiveLearning:
    """Accuracy gained by adding the pool instances with the highest influence, and add-one-in influence itself.

    Measures: a share of the training instances is drawn as the pool, and models are trained on the rest, the base.
        The pool is ranked by influence summed over the ranking half of the test instances (``_sum``), or by these
        test instances naming their best proponents in turn (``_turns``, which spreads the choice); the first ones
        are added and models trained anew. ``active_<rule>_<percent>`` is their accuracy on the judging half when that
        share of the training instances was added, ``active_gain_random_…`` what it is above that with random
        additions, ``active_gain_uncertainty_…`` above that with the instances whose predicted class the base models
        are least confident of, which takes no label. ``active_add_one_correlation`` is the Spearman correlation, over
        pool instances that are really added one at a time, of influence with the fall of the loss of a judging test
        instance, then the mean over these; ``active_add_one_sum_correlation`` that of the summed influence with the
        fall of the mean loss of the judging half. The tables active_learning and active_learning_loss are the curves.
    Limits: the run's estimator has seen the whole training set, so its values are of removal and hold the labels of
        the pool. They tell which labelled instances are worth buying; a rule without labels knows less, and
        uncertainty is such a rule. One ranking is made, not one after each addition.
    Intervals: 95%. For accuracies a percentile bootstrap over seeds and judging test instances together, widened
        for few seeds; random additions have a draw of their own for every seed. An interval is about the one set
        that was added; notes say how far random ones lie apart. For correlations over added instances, and test
        instances in the first.
    Needs: retraining; classes for uncertainty.
    Cost: per estimator rules · shares · seeds trainings; seeds · (1 + 2 shares + sample) that all share, and seeds to
        ask for confidence.
    Source: survey section 6 (active learning by add-one-in influence); Liu et al. 2021; Lewis & Gale 1994 for least
        confidence. Turns are an addition.

    Attributes:
        pool: share of the training instances that is held back.
        shares: of the training instances, added; ascending.
        rules: sum and turns, or one of them.
        sample: pool instances that are added one at a time.
        seeds: trainings of every condition.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    pool: float = 0.8
    shares: list[float] = field(default_factory=lambda: [0.02, 0.05, 0.1])
    rules: list[Rule] = field(default_factory=lambda: ["sum", "turns"])
    sample: int = 50
    seeds: int = 5
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 < self.pool < 1:
            raise ConfigError(f"metric.active_learning.pool must be between 0 and 1, got {self.pool}; change it")
        check_shares("metric.active_learning.shares", self.shares, most=self.pool)
        check_chosen("metric.active_learning.rules", self.rules, get_args(Rule))
        check_seeds("metric.active_learning.seeds", self.seeds)
        check_resamples("metric.active_learning.n_boot", self.n_boot)
        if self.sample < MIN_ROWS:
            raise ConfigError(f"metric.active_learning.sample must be at least {MIN_ROWS}, got {self.sample}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """Trainings that are known beforehand, and as many as one estimator's rankings and uncertainty take."""
        judge, n = Judge.of(prospect, self.seeds), len(prospect.train)
        sets = self._known(prospect, self._pool(prospect))
        classes = prospect.problem.data.task == "classification"
        each = len(self.shares) * self.seeds
        return Work(
            trainings=(judge.design(sets.values()),),
            more_trainings=float(each + self.seeds if classes else 0),
            more_alone=float(classes),
            own_trainings=float(len(self.rules) * each),
            numbers=self.n_boot * (6.0 * len(self.rules) * each * len(judge.y) + 60.0 * len(judge.y) + self.sample),
            bytes=25.0 * len(sets) * self.seeds * (n + len(prospect.test)) + 16.0 * self.n_boot * len(judge.y),
            formula=f"{self.seeds} seeds x (base + ({len(self.rules)} rules of each estimator + random + uncertainty) "
            f"x {len(self.shares)} shares + {self.sample} added one at a time)",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows per rule and share and the two of ``add_one.NAMES``; curves."""
        judge, pool = Judge.of(run, self.seeds), self._pool(run)
        found = {rule: self._scores(rule, influence, judge, pool) for rule in self.rules}
        sets = self._known(run, pool)
        for rule, score in found.items():
            if not isinstance(score, Unavailable):
                sets |= self._added(run, rule, pool[scores.descending(score)])
        if run.problem.data.task == "classification":
            confidence = least_confidence(run, judge, sets["base", 0], pool)
            sets |= self._added(run, "uncertainty", pool[np.argsort(confidence, kind="stable")])
        made = judge.refit(run.retrain, sets, "retraining with pool instances")
        resamples = Resamples.drawn(run, judge, self.n_boot)
        rows: list[Measured] = []
        for rule, score in found.items():
            size = f"{len(pool)} of {len(run.train)} training instances are the pool"
            protocol = sentences(size, f"added: {scores.FIRST[rule]}", SEEN, judge.protocol(self.n_boot))
            if isinstance(score, Unavailable):
                names = [name for share in self.shares for name in self._names(rule, share)]
                rows += unavailable(names, score.status, score.note, protocol)
            else:
                rows += self._gains(rule, made, resamples, protocol)
        rows += self._one_by_one(influence, made, judge, run, pool)
        return tidy(rows, tables=self._tables(made, resamples, judge))

    def _names(self, rule: str, share: float) -> list[str]:
        return [f"active_{kind}{rule}_{percent(share)}" for kind in ("", *(f"gain_{other}_" for other in AGAINST))]

    def _scores(self, rule: str, influence: Influence, judge: Judge, pool: Rows) -> FloatArray | Unavailable:
        """Of the pool, high is to be added."""
        if rule == "turns":
            return scores.by_turns(influence, judge.ranking, pool)
        return scores.by_sum(influence, judge.ranking, pool)

    def _pool(self, run: Run | Prospect) -> Rows:
        """Rows of the pool, ascending."""
        n = len(run.train)
        size = round(self.pool * n)
        if not max(self._counts(n)[-1], self.sample) <= size < n:
            raise ConfigError(
                f"metric.active_learning.pool={self.pool} is {size} of {n} training instances, and must leave a base "
                f"and hold what is added: {self._counts(n)[-1]} by shares, {self.sample} by sample; change one of them"
            )
        return subsets.some(run.train.ids, np.arange(n), size, run.drawn("pool"))

    def _counts(self, n: int) -> list[int]:
        return counts_for(self.shares, n, "metric.active_learning.shares")

    def _sample(self, run: Run | Prospect, pool: Rows) -> Rows:
        """Rows that are added one at a time, ascending."""
        return subsets.some(run.train.ids, pool, self.sample, run.drawn("added one by one"))

    def _known(self, run: Run | Prospect, pool: Rows) -> dict[Key, NDArray[np.uint8]]:
        """Weights of the base, of random additions and of single ones."""
        n = len(run.train)
        random = pool[subsets.permutations(run.train.ids[pool], self.seeds, run.drawn("added"))]
        sets = {("base", 0): weights_of(n, pool, 0)} | self._added(run, "random", random)
        for row in self._sample(run, pool).tolist():
            sets["one", row] = weights_of(n, pool[pool != row], 0)
        return sets

    def _added(self, run: Run | Prospect, kind: str, orders: Rows) -> dict[Key, NDArray[np.uint8]]:
        """Weights of base and the first of ``orders`` of the pool, (k,) or (seeds, k), for every share."""
        n = len(run.train)
        return {(kind, place): weights_of(n, orders[..., k:], 0) for place, k in enumerate(self._counts(n))}

    def _gains(
        self, rule: str, made: Mapping[Key, Refitted], resamples: Resamples, protocol: str
    ) -> Iterator[Measured]:
        base = f"without the pool: {made['base', 0].quality.mean():.4f}"
        for place, share in enumerate(self.shares):
            added, names = made[rule, place].quality, self._names(rule, share)
            yield resamples.measured(names[0], added, protocol, base)
            for name, kind in zip(names[1:], AGAINST, strict=True):
                if (kind, place) not in made:
                    yield from unavailable([name], "not applicable", NO_CLASSES, protocol)
                    continue
                other = made[kind, place].quality
                level = by_draw(other) if kind == "random" else f"{other.mean():.4f}"
                note = sentences(f"added by {kind}: {level}", base)
                yield resamples.measured(name, added - other, protocol, note)

    def _one_by_one(
        self, influence: Influence, made: Mapping[Key, Refitted], judge: Judge, run: Run, pool: Rows
    ) -> Iterator[Measured]:
        added, base = self._sample(run, pool), made["base", 0].loss
        protocol = sentences(
            f"{len(added)} of {len(pool)} pool instances added one at a time to {len(run.train) - len(pool)} others",
            SEEN,
            f"{len(judge.judging)} judging test instances; fall of the loss, mean of {self.seeds} seeds, "
            "loss_norm=subset",
        )
        total = scores.by_sum(influence, judge.ranking, added)
        if isinstance(total, Unavailable):
            yield from unavailable(add_one.NAMES, total.status, total.note, protocol)
            return
        falls = np.stack([base - made["one", row].loss for row in added.tolist()])  # (sample, seeds, judging half)
        estimated = np.asarray(influence.values[added][:, judge.judging], dtype=np.float64)
        yield from add_one.correlations(estimated, total, falls, run, self.n_boot, protocol)

    def _tables(self, made: Mapping[Key, Refitted], resamples: Resamples, judge: Judge) -> dict[str, pd.DataFrame]:
        series = {}
        for kind in (kind for kind in (*self.rules, *AGAINST) if (kind, 0) in made):
            curve = [made["base", 0], *(made[kind, place] for place in range(len(self.shares)))]
            title = kind if kind in AGAINST else f"by {kind}"
            series[title] = zip([0.0, *self.shares], curve, strict=True)
        return resamples.curves("active_learning", "added", judge, series)


def least_confidence(run: Run, judge: Judge, weights: NDArray[Any], pool: Rows) -> FloatArray:
    """``(pool,)`` probability that models give the class that they predict, averaged over seeds.

    The bank keeps the probability of the label alone, so models are trained again, the same ones up to rounding, with
    the pool under their own predictions as test instances.
    """
    label, total = "retraining to ask about the pool", np.zeros(len(pool))
    data: Data = run.problem.data
    for seed in range(judge.seeds):
        design = judge.design([weights], [seed])
        train, _ = run.retrain.outcomes(design, label)
        predicted = train.prediction[0, pool].astype(data.train.y.dtype)
        asked = Split(x=data.train.x[pool], y=predicted, ids=data.train.ids[pool])
        _, answer = run.altered(replace(data, test=asked)).outcomes(design, label)
        total += np.exp(-np.logaddexp(0.0, -np.asarray(answer.margin[0], dtype=np.float64)))
    return total / judge.seeds
