"""The Shapley interaction index of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from influx.engines import subsets
from influx.engines.coalitions import interaction_weights, shapley_weights, with_interactions
from influx.engines.game_plans import Scheme
from influx.engines.pairs import adjacent, adjacent_by_size, adjacent_bytes, adjacent_coalitions, kept_numbers
from influx.engines.permutations import check_permutations, with_mean
from influx.engines.players import Cooperative, holds, over_seeds, pair_tables
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

INSTEAD = "estimator.estimator=permutation"


@dataclass(frozen=True, kw_only=True)
class ShapleyInteraction(Cooperative):
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

    estimator: Literal["exact", "permutation"] = "exact"
    permutations: int = 500

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
            coalitions=adjacent_coalitions,
            by_size=adjacent_by_size(count),
            bytes=adjacent_bytes(count, columns),
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
        weights = shapley_weights(len(players)), interaction_weights(len(players))
        games = [self.game(run, players, (seed,)) for seed in range(self.seeds)]
        parts, pairs = zip(*(map(with_mean, with_interactions(game, *weights)) for game in games), strict=True)
        values, stderr = over_seeds(parts)
        tables = pair_tables(players, *over_seeds(pairs), run.test.ids)
        return self.result(run, players, values, stderr, tables, {"coalitions": 2 ** len(players)}, parts)

    def _sampled(self, run: Run) -> Influence:
        players = self.players(run)
        orders = subsets.permutations(players.ids, self.permutations, run.drawn("permutations"))
        found = adjacent(self.game(run, players), orders)
        unseen = int((found.visits == 0).sum())
        if unseen:
            run.warn(
                f"{unseen} of {len(found.visits)} pairs were never neighbours in {self.permutations} permutations and "
                "have no interaction; raise estimator.permutations or set estimator.groups"
            )
        report = {
            "coalitions": found.coalitions,
            "least_visits": int(found.visits.min()),
            "stderr_holds": holds("permutations", self.seeds),
        }
        tables = pair_tables(players, found.pairs, found.pairs_stderr, run.test.ids)
        return self.result(run, players, found.values, found.stderr, tables, report)
