"""MAGIC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.unrolling import Backward, backward_work
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class Magic(Backward):
    """MAGIC: metagradients of test risks with respect to instance weights.

    Estimates: -dL(z_j; θ_T)/dw_i through the recorded steps of any optimizer, its state included: the first-order
        effect of removing i. Loss units; positive for proponents.
    Needs: every step of the training, backwards (replayed); per-instance gradients; curvature of its batches.
    Cost: (n + m) T Hessian products of a batch (m without self-influence); memory m p numbers for each optimizer slot,
        and O(log T) states: stretches between checkpoints are replayed by halves.
    Source: Ilyas & Engstrom 2025, arXiv:2504.16430; Engstrom et al. 2025, arXiv:2503.13751 (REPLAY). It equals HyDRA's
        derivative and is cheaper when test instances are fewer than training instances.

    Attributes:
        self_influence: compute it too, for (n + m) / m times the cost.
        audit: instances to remove really, and to nudge for finite differences; 0 for none, growth is
            reported all the same.
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        start: first step to unroll; influence through earlier steps is ignored.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY, Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="m b p T",
        incremental="b p T",
        storage="p log T",
        assumptions="training is smooth in the weights",
        groups="additive",
        paper="Ilyas & Engstrom 2025",
    )

    start: int = 0

    def plan(self, prospect: Prospect) -> Work:
        """Hessian products of every batch for all targets."""
        return backward_work(prospect, self.self_influence, self.start)

    def estimate(self, run: Run) -> Influence:
        """Adjoints backwards."""
        return self.backward(run, self.start)
