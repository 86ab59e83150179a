"""Gradient aggregated similarity (GAS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.similarity import (
    RateAt,
    Weight,
    gradient_similarity,
    optimizer_warning,
    similarity_work,
    weighted_checkpoints,
)
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class GAS:
    """TracInCP between unit gradients.

    Estimates: Σ_c w_c cos(∇L(z_i; θ_c), ∇L(z_j; θ_c)), similarity of direction whatever the instance's loss.
        Positive for proponents; only the order means something. An instance whose gradient is zero at a
        checkpoint contributes 0 there.
    Needs: checkpoints with their learning rates; per-instance gradients.
    Cost: as TracInCP.
    Source: Hammoudeh & Lowd 2022, arXiv:2201.10055; survey Eq. (68).

    Attributes:
        checkpoints: how many saved checkpoints to use, evenly spaced; None uses all.
        lr_at: next, prev or segment_mean.
        weight: paper, calibrated or uniform.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n p C",
        incremental="n p C",
        storage="p C",
        assumptions="SGD-like updates; direction matters, magnitude does not",
        groups="additive",
        paper="Hammoudeh & Lowd 2022",
    )

    checkpoints: int | None = None
    lr_at: RateAt = "next"
    weight: Weight = "paper"

    def plan(self, prospect: Prospect) -> Work:
        """Gradients and products at every checkpoint used."""
        return similarity_work(prospect, self.checkpoints, unit=True)

    def estimate(self, run: Run) -> Influence:
        """Gradient cosines, weighted and summed over checkpoints."""
        weighted = weighted_checkpoints(
            run.checkpoints, run.learning_rates, len(run.train), self.checkpoints, self.lr_at, self.weight
        )
        found = gradient_similarity(run.gradients, weighted, run.zeros(), unit=True)
        for sentence in optimizer_warning(run.unlike_sgd):
            run.warn(sentence)
        return run.influence(
            found.values,
            scale="rank",
            self_influence=found.self_values,
            self_influence_note="the cosine of a gradient with itself is 1, so self-influence cannot rank instances",
            report={"checkpoints": len(weighted), "weight": self.weight, "vanished_gradients": found.vanished},
        )
