"""Exact Shapley values of training instances for a nearest-neighbour surrogate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from influx.engines.neighbour_games import Coalitions
from influx.engines.surrogate import Surrogate
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class KNNShapley(Surrogate):
    """Shapley value, or another semivalue, of each instance for a k-nearest-neighbour predictor.

    Estimates: Σ_S w_|S| (v_j(S ∪ i) - v_j(S)) over the sets S without i, exactly. For classes v_j(S) = (1/k) Σ 1[y =
        y_j] over the k instances of S nearest to z_j, for regression v_j(S) = -((1/k) Σ y - y_j)². In units of v, not
        of the loss; positive for proponents.
    Needs: learned features; none with ``features=raw``.
    Cost: n m (d + log n) operations for d features; beyond the result, memory for n (d + 2) numbers and a block.
    Source: Jia et al. 2019, arXiv:1908.08619, Theorem 1; survey Eq. (26). v has a plus where Eq. (25) has a minus, and
        1/max(n, k) is in the place of 1/n, which holds for n >= k only. soft is Wang & Jia 2023, arXiv:2304.04258.

    Attributes:
        k: neighbours.
        utility: fixed_k divides by k whatever the size of S, with v(∅) = 0 (-y_j² in regression); soft, for classes,
            by min(k, |S|), with v(∅) = 1/classes.
        features: penultimate (inputs of the trained model's last layer) or raw (the data, flattened).
        metric: l2 or cosine. Equal distances are ordered by id.
        own: also value each instance for itself as the test instance, its own nearest neighbour: self-influence, at
            the cost of n more test instances.
        semivalue: shapley, banzhaf or beta.
        alpha: of semivalue=beta: with beta=1 the larger, the more small sets weigh. Null for others.
        beta: of semivalue=beta: with alpha=1 the larger, the more large sets weigh. Null for others.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="neighbours",
        full="n d + n log n",
        incremental="n d + n log n",
        storage="n d",
        assumptions="surrogate",
        groups="additive",
        paper="Jia et al. 2019",
    )

    semivalue: Literal["shapley", "banzhaf", "beta"] = "shapley"
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.semivalue not in ("shapley", "banzhaf", "beta"):
            raise ConfigError(
                f"estimator.semivalue must be shapley, banzhaf or beta, got {self.semivalue!r}; change it"
            )
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if self.semivalue != "beta" and value is not None:
                raise ConfigError(f"estimator.{name} belongs to estimator.semivalue=beta; remove it")
            if self.semivalue == "beta" and (value is None or not 0 < value < float("inf")):
                raise ConfigError(f"estimator.{name} must be positive and finite, got {value}; try 1")

    def estimate(self, run: Run) -> Influence:
        """Order the training instances for each test instance, then one pass from far to near."""
        ordered, test, game = self.prepared(run, coalitions=self._coalitions)
        values = ordered.fill(test.x, game.semivalues, run.zeros())
        own = ordered.own(replace(game, test=game.train).semivalues) if self.own else None
        return run.influence(
            values,
            scale=self.scale,
            self_influence=own,
            self_influence_note="" if self.own else "set estimator.own=true for the value of each instance for itself",
            report={"k": self.k, "semivalue": self.semivalue, "empty_utility": float(game.empty.mean())},
        )

    def plan(self, prospect: Prospect) -> Work:
        """One product of matrices and one sort per test instance."""
        return self.planned(prospect, float(np.log2(max(len(prospect.train), 2))))

    @property
    def _coalitions(self) -> Coalitions:
        if self.alpha is not None and self.beta is not None:
            return Coalitions(alpha=float(self.alpha), beta=float(self.beta))
        return Coalitions() if self.semivalue == "shapley" else Coalitions(alpha=None)
