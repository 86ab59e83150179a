"""The Shapley-Taylor interaction index of order 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from influx.engines import subsets
from influx.engines.coalitions import all_pairs, taylor_weights, weights_of_nobody, with_interactions
from influx.engines.game_plans import Scheme
from influx.engines.games import Array, Game
from influx.engines.pairs import kept_numbers, taylor, taylor_by_size, taylor_bytes, taylor_coalitions
from influx.engines.permutations import check_permutations, with_mean
from influx.engines.players import Cooperative, holds, over_seeds, pair_tables
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

INSTEAD = "estimator.estimator=permutation"


@dataclass(frozen=True, kw_only=True)
class ShapleyTaylor(Cooperative):
    """The gain of training, divided among instances and pairs of them.

    Estimates: I(i) = L(∅) - L({i}) for single players, and for pairs A = {i, j} I(A) = 2/n times the sum over sets S
        without them of (L(S ∪ i) + L(S ∪ j) - L(S ∪ A) - L(S)) / C(n - 1, |S|), in the table ``interactions`` (means
        over test instances) and in ``interactions_by_test``. All I(i) and I(A) add up to L(∅) - L(D). The matrix holds
        I(i) + Σ_j I({i, j}) / 2, which adds up to the same. Loss units; positive for proponents.
    Needs: retraining.
    Cost: 2^n trainings for n players; n (n + 1) / 2 for each of P permutations.
    Source: Sundararajan, Dhamdhere & Agarwal 2020, arXiv:1902.05622; survey Eq. (21), which holds for the highest order
        alone and does not say so.

    Attributes:
        target: loss, margin (its negative) or zero_one.
        seeds: initialisations and batch orders to average over; the first is the trained model's own.
        empty_value: the risk of a model trained on nothing: init_model (the untrained net), uniform (all classes
            equally likely), or a number.
        groups: null for instances as players; label, cluster, random or the path of a csv file (columns train_id and
            group) for groups, whose value is shared equally by their members. Instances in no group always train.
        group_count: number of groups for cluster, random and quantiles of a numeric target.
        group_size: instances per random group.
        estimator: exact (all coalitions, at most 14 players) or permutation.
        permutations: for estimator=permutation.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="shapley",
        full="2^n T",
        incremental="2^n",
        storage="n^2 m",
        assumptions="none",
        groups="exact",
        paper="Sundararajan, Dhamdhere & Agarwal 2020",
    )

    estimator: Literal["exact", "permutation"] = "exact"
    permutations: int = 100

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_permutations(self.permutations, False, 1)

    def plan(self, prospect: Prospect) -> Work:
        """All coalitions, or those of the permutations."""
        if self.estimator == "exact":
            players = self.few_players(prospect, INSTEAD)
            return self.all_coalitions(prospect, players, len(players) * (len(players) + 1) // 2)
        players = self.players(prospect)
        rng = prospect.drawn("permutations")
        count, columns = len(players), len(prospect.test) + 1
        scheme = Scheme(
            coalitions=taylor_coalitions,
            by_size=taylor_by_size(count),
            bytes=taylor_bytes(count, columns),
            sums=kept_numbers(count, columns),
        )
        return self.walked(
            prospect, players, lambda number: subsets.permutations(players.ids, number, rng), self.permutations, scheme
        )

    def estimate(self, run: Run) -> Influence:
        """From all coalitions under each seed, or from permutations."""
        return self._exact(run) if self.estimator == "exact" else self._sampled(run)

    def _exact(self, run: Run) -> Influence:
        players = self.few_players(run, INSTEAD)
        found = [_of(self.game(run, players, (seed,))) for seed in range(self.seeds)]
        parts = [values for values, _ in found]
        values, stderr = over_seeds(parts)
        tables = pair_tables(players, *over_seeds([pairs for _, pairs in found]), run.test.ids)
        return self.result(run, players, values, stderr, tables, {"coalitions": 2 ** len(players)}, parts)

    def _sampled(self, run: Run) -> Influence:
        players = self.players(run)
        orders = subsets.permutations(players.ids, self.permutations, run.drawn("permutations"))
        found = taylor(self.game(run, players), orders)
        tables = pair_tables(players, found.pairs, found.pairs_stderr, run.test.ids)
        report = {"coalitions": found.coalitions, "stderr_holds": holds("permutations", self.seeds)}
        return self.result(run, players, found.values, found.stderr, tables, report)


def _of(game: Game) -> tuple[Array, Array]:
    """Values of players, halves of their pairs included, and of pairs; from all coalitions."""
    weights = weights_of_nobody(game.players), taylor_weights(game.players)
    values, pairs = map(with_mean, with_interactions(game, *weights))
    for side in all_pairs(game.players):
        np.add.at(values, side, pairs / 2)
    return values, pairs
