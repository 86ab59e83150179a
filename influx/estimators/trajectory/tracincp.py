"""TracInCP."""

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
class TracInCP:
    """TracIn over saved checkpoints.

    Estimates: Σ_c w_c ⟨∇L(z_i; θ_c), ∇L(z_j; θ_c)⟩, the first-order drop of test risk j due to steps on i.
        Positive for proponents. With ``weight=calibrated`` in loss units, otherwise only the order means
        something.
    Needs: checkpoints with their learning rates; per-instance gradients.
    Cost: C (n + m) gradients and C n m dot products; memory O(block + m) gradients' factors and n·m numbers.
    Source: Pruthi et al. 2020, arXiv:2002.08484, Eq. (1); survey Eq. (56). The learning rate is that of the step
        that leaves the checkpoint (survey); ``lr_at=prev`` is the original's.

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
        assumptions="SGD-like updates",
        groups="additive",
        paper="Pruthi et al. 2020",
    )

    checkpoints: int | None = None
    lr_at: RateAt = "next"
    weight: Weight = "paper"

    def plan(self, prospect: Prospect) -> Work:
        """Gradients and products at every checkpoint used."""
        return similarity_work(prospect, self.checkpoints)

    def estimate(self, run: Run) -> Influence:
        """Gradient dot products, weighted and summed over checkpoints."""
        weighted = weighted_checkpoints(
            run.checkpoints, run.learning_rates, len(run.train), self.checkpoints, self.lr_at, self.weight
        )
        found = gradient_similarity(run.gradients, weighted, run.zeros())
        for sentence in optimizer_warning(run.unlike_sgd):
            run.warn(sentence)
        return run.influence(
            found.values,
            scale=scale_of(self.weight, run.unlike_sgd),
            self_influence=found.self_values,
            report={"checkpoints": len(weighted), "weight": self.weight, "lr_at": self.lr_at},
        )
