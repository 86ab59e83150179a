"""TracIn-Last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.similarity import (
    RateAt,
    Weight,
    gradient_similarity,
    optimizer_warning,
    scale_of,
    similarity_work,
    weighted_checkpoints,
)
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class TracInLast:
    """TracInCP on the parameters of the last linear layer.

    Estimates: Σ_c w_c (f_i·f_j + 1)(r_i·r_j) with features f and output gradients r, the last layer's share of
        TracInCP. Positive for proponents; see TracInCP for scale.
    Needs: checkpoints with their learning rates; per-instance gradients; a linear last layer.
    Cost: C (n + m) gradients of one layer and C n m products of length features + outputs.
    Source: Pruthi et al. 2020, arXiv:2002.08484, section 3.6; Yeh et al. 2022 on its cancellation effect.

    Attributes:
        checkpoints: how many saved checkpoints to use, evenly spaced; None uses all.
        lr_at: next, prev or segment_mean.
        weight: paper, calibrated or uniform.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS, Need.LINEAR_HEAD})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n p_last C",
        incremental="n p_last C",
        storage="p C",
        assumptions="SGD-like updates; the last layer tells",
        groups="additive",
        paper="Pruthi et al. 2020",
    )

    checkpoints: int | None = None
    lr_at: RateAt = "next"
    weight: Weight = "paper"

    def plan(self, prospect: Prospect) -> Work:
        """Gradients and products at every checkpoint used."""
        return similarity_work(prospect, self.checkpoints, select="head")

    def estimate(self, run: Run) -> Influence:
        """Gradient dot products of the head, weighted and summed over checkpoints."""
        weighted = weighted_checkpoints(
            run.checkpoints, run.learning_rates, len(run.train), self.checkpoints, self.lr_at, self.weight
        )
        found = gradient_similarity(run.gradients, weighted, run.zeros(), select=run.head())
        for sentence in optimizer_warning(run.unlike_sgd):
            run.warn(sentence)
        return run.influence(
            found.values,
            scale=scale_of(self.weight, run.unlike_sgd),
            self_influence=found.self_values,
            report={"checkpoints": len(weighted), "weight": self.weight, "lr_at": self.lr_at},
        )
