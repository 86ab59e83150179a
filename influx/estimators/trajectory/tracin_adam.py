"""TracIn through Adam's first moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.stepwise import Stepwise, visit_work
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class AdamTracIn(Stepwise):
    """TracIn with every step's change divided among all batches that Adam's first moment remembers.

    Estimates: the share of i in Σ_t -∇L(z_j; θ_t)·(θ_t+1 - θ_t), the first-order fall of test risk j over the training,
        with the preconditioner √v̂ + eps of each step taken as recorded. A visit counts at every later step through the
        first moment. Loss units; positive for proponents. With weight decay's share the shares sum to the fall.
    Needs: every step of the training, backwards (replayed); per-instance gradients.
    Cost: T (b + m) gradients and T b m dot products of written-out gradients; memory 3 m p numbers.
    Source: survey section 5.2.1 with the update of Adam or AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019) in place
        of plain SGD's. Read backwards, one filtered sum of test gradients serves all visits.

    Attributes:
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        self_influence: compute it too, for (n + m) / m times the cost.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY, Need.GRADIENTS})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="(b + m) p T",
        incremental="p T",
        storage="p C",
        assumptions="small learning rate, preconditioner as recorded",
        groups="additive",
        paper="Pruthi et al. 2020",
    )

    self_influence: bool = True

    def plan(self, prospect: Prospect) -> Work:
        """Gradients of every batch and of all targets at its step."""
        return visit_work(prospect, memory="adam", own=self.self_influence)

    def estimate(self, run: Run) -> Influence:
        """One sweep backwards through the training."""
        return self.attributed(run, "adam", self.self_influence)
