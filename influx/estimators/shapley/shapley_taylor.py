"""The Shapley-Taylor interaction index of order 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influx.engines import game_plans
from influx.engines.coalitions import all_pairs, taylor_weights, weights_of_nobody, with_interactions
from influx.engines.games import Array, Game
from influx.engines.interacting import Interacting
from influx.engines.pairs import taylor
from influx.engines.permutations import with_mean
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class ShapleyTaylor(Interacting):
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

    permutations: int = 100

    def plan(self, prospect: Prospect) -> Work:
        """All coalitions, or those of the permutations."""
        return self.planned(prospect, game_plans.taylor)

    def estimate(self, run: Run) -> Influence:
        """From all coalitions under each seed, or from permutations."""
        if self.estimator == "exact":
            return self.exactly(run, _of)
        players = self.players(run)
        return self.told(run, players, self.sampled(run, players, taylor), {})


def _of(game: Game) -> tuple[Array, Array]:
    """Values of players, halves of their pairs included, and of pairs; from all coalitions."""
    weights = weights_of_nobody(game.players), taylor_weights(game.players)
    values, pairs = map(with_mean, with_interactions(game, *weights))
    for side in all_pairs(game.players):
        np.add.at(values, side, pairs / 2)
    return values, pairs
