"""TracIn over every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.stepwise import Stepwise, check_every, visit_work
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class TracIn(Stepwise):
    """TracIn at the steps that visit an instance.

    Estimates: Σ_t∋i (η_t/b_t) ⟨∇L(z_i; θ_t), ∇L(z_j; θ_t)⟩ over the steps t whose batch holds i, the first-order fall
        of test risk j that i's own steps of plain SGD make. Loss units; positive for proponents.
    Needs: every step of the training (replayed); per-instance gradients.
    Cost: T (b + m) gradients and T b m dot products; memory O(m) gradients' factors and n·m numbers.
    Source: Pruthi et al. 2020, arXiv:2002.08484, section 3; survey Eq. (53)-(55), Algorithm 2. What weight decay
        contributes is no instance's and reported apart; clipped steps count with their recorded factor.

    Attributes:
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        every: use one step of so many, counted as often.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY, Need.GRADIENTS})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="(b + m) p T",
        incremental="p T",
        storage="p C",
        assumptions="plain SGD steps, small learning rate",
        groups="additive",
        paper="Pruthi et al. 2020",
    )

    every: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_every(self.every)

    def plan(self, prospect: Prospect) -> Work:
        """Gradients of every batch and of all test instances at its step."""
        return visit_work(prospect, self.every)

    def estimate(self, run: Run) -> Influence:
        """Gradient products at every visit."""
        return self.visited(run, every=self.every)
