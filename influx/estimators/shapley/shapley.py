"""The Shapley value of training instances or groups, from all coalitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.coalitions import semivalues, shapley_weights
from influx.engines.permutations import with_mean
from influx.engines.players import Cooperative, over_seeds
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class Shapley(Cooperative):
    """The Shapley value, exactly, of at most 14 training instances or groups of them.

    Estimates: Σ_S (L(z_j; θ_S) - L(z_j; θ_S∪i)) / (n C(n - 1, |S|)) over the sets S without i. Summed over i it is
        the risk of the empty training set minus that of the whole. Loss units; positive for proponents.
    Needs: retraining.
    Cost: 2^n trainings per seed for n players, many at a time; 2^n n m operations.
    Source: Shapley 1953; Ghorbani & Zou 2019, arXiv:1904.02868; survey Eq. (18).

    Attributes:
        target: loss, margin (its negative) or zero_one.
        seeds: initialisations and batch orders to average over; the first is the trained model's own.
        empty_value: the risk of a model trained on nothing: init_model (the untrained net), uniform (all classes
            equally likely), or a number. Another one moves the values of all players equally.
        groups: null for instances as players; label, cluster, random or the path of a csv file (columns train_id and
            group) for groups, whose value is shared equally by their members. Instances in no group always train.
        group_count: number of groups for cluster, random and quantiles of a numeric target.
        group_size: instances per random group.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="shapley",
        full="2^n T",
        incremental="2^n",
        storage="2^n m",
        assumptions="none",
        groups="exact",
        paper="Shapley 1953; Ghorbani & Zou 2019",
    )

    def plan(self, prospect: Prospect) -> Work:
        """All coalitions."""
        players = self.few_players(prospect, "estimator=tmc_shapley")
        return self.all_coalitions(prospect, players, len(players))

    def estimate(self, run: Run) -> Influence:
        """The game under each seed."""
        players = self.few_players(run, "estimator=tmc_shapley")
        weights = shapley_weights(len(players))
        games = [self.game(run, players, (seed,)) for seed in range(self.seeds)]
        parts = [with_mean(semivalues(game, weights)) for game in games]
        values, stderr = over_seeds(parts)
        report = {"coalitions": 2 ** len(players)}
        return self.result(run, players, values, stderr, {}, report, parts)
