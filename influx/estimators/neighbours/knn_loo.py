"""Leave-one-out of a nearest-neighbour surrogate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from influx.engines.surrogate import Surrogate
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class KNNLeaveOneOut(Surrogate):
    """What removing an instance takes from the utility of a k-nearest-neighbour predictor.

    Estimates: v_j(D) - v_j(D∖i), exactly, with v_j(D) = (1/k) Σ 1[y = y_j] over the k instances of D nearest to z_j for
        classes and v_j(D) = -((1/k) Σ y - y_j)² for regression. 0 for all but the k nearest. In units of v, not of the
        loss; positive for proponents.
    Needs: learned features; none with ``features=raw``.
    Cost: n m d operations for d features; beyond the result, memory for n (d + 2) numbers and a block.
    Source: Jia et al. 2021, arXiv:1911.07128, Lemma 1; survey section 4.1.3.

    Attributes:
        k: neighbours.
        utility: fixed_k divides by k also when there are fewer instances, with v(∅) = 0; soft, for classes, by their
            number, with v(∅) = 1/classes. They differ when n <= k.
        features: penultimate (inputs of the trained model's last layer) or raw (the data, flattened).
        metric: l2 or cosine. Equal distances are ordered by id.
        own: also value each instance for itself as the test instance, its own nearest neighbour: self-influence, at
            the cost of n more test instances.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="neighbours",
        full="n d",
        incremental="n d",
        storage="n d",
        assumptions="surrogate",
        groups="no",
        paper="Jia et al. 2021",
    )

    def estimate(self, run: Run) -> Influence:
        """Find the k + 1 nearest training instances of each test instance."""
        ordered, test, game = self.prepared(run, nearest=self.k + 1)
        values = ordered.fill(test.x, game.removals, run.zeros())
        own = ordered.own(replace(game, test=game.train).removals) if self.own else None
        return run.influence(
            values,
            scale=self.scale,
            self_influence=own,
            self_influence_note="" if self.own else "set estimator.own=true for the value of each instance for itself",
            report={"k": self.k, "empty_utility": float(game.empty.mean())},
        )

    def plan(self, prospect: Prospect) -> Work:
        """One product of matrices and one selection per test instance."""
        return self.planned(prospect, 2.0)
