"""The Shapley interaction index of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines import game_plans
from influx.engines.coalitions import interaction_weights, shapley_weights, with_interactions
from influx.engines.games import Array, Game
from influx.engines.interacting import Interacting
from influx.engines.pairs import adjacent
from influx.engines.permutations import with_mean
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class ShapleyInteraction(Interacting):
    """Shapley values, and the Shapley interaction index of every pair.

    Estimates: the matrix holds Shapley values. The table ``interactions`` holds, for every pair A = {i, j}, the sum
        over sets S without them of (n - 2 - |S|)! |S|! / (n - 1)! times L(S ∪ i) + L(S ∪ j) - L(S ∪ A) - L(S), its
        mean over test instances; ``interactions_by_test`` holds each. Positive: together they help more than the
        sum of what each does. Values and interactions do not add up to the gain of training. Loss units.
    Needs: retraining.
    Cost: 2^n trainings for n players; 2 (n - 1) P from P permutations, of which a pair is neighbours in 2 P / n.
    Source: Grabisch & Roubens 1999; survey Eq. (19)-(20), where (20) lacks signs.

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
        permutations: for estimator=permutation; pairs that are never neighbours get no interaction.
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
        paper="Grabisch & Roubens 1999",
    )

    permutations: int = 500

    def plan(self, prospect: Prospect) -> Work:
        """All coalitions, or those of the permutations."""
        return self.planned(prospect, game_plans.adjacent)

    def estimate(self, run: Run) -> Influence:
        """From all coalitions under each seed, or from permutations."""
        return self.exactly(run, _of) if self.estimator == "exact" else self._sampled(run)

    def _sampled(self, run: Run) -> Influence:
        players = self.players(run)
        found = self.sampled(run, players, adjacent)
        unseen = int((found.visits == 0).sum())
        if unseen:
            run.warn(
                f"{unseen} of {len(found.visits)} pairs were never neighbours in {self.permutations} permutations and "
                "have no interaction; raise estimator.permutations or set estimator.groups"
            )
        return self.told(run, players, found, {"least_visits": int(found.visits.min())})


def _of(game: Game) -> tuple[Array, Array]:
    """Shapley values of players, and interactions of pairs; from all coalitions."""
    weights = shapley_weights(game.players), interaction_weights(game.players)
    values, pairs = map(with_mean, with_interactions(game, *weights))
    return values, pairs
