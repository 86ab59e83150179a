"""HyDRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.unrolling import Forward, forward_work
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class HyDRA(Forward):
    """HyDRA: the derivative of the whole training with respect to an instance's weight.

    Estimates: -dL(z_j; θ_T)/dw_i through the recorded steps of any optimizer, the first-order effect of removing i
        (weight 1 to 0). With ``linearize_at=loo`` along the removal itself: i's own curvature is taken out of its
        batches, which is exact for quadratic risks. Loss units; positive for proponents.
    Needs: every step of the training (replayed); per-instance gradients; curvature of its batches.
    Cost: n T Hessian products of a batch, O(n b p T); memory n p numbers and as many for each optimizer slot.
    Source: Chen et al. 2021, arXiv:2102.02515; survey Eq. (70)-(79). ε_i is free in Eq. (79): 0 is the derivative
        (and the authors' code), -1/n the leave-one-out recursion.

    Attributes:
        indices: ids of the training instances to track; None means all.
        linearize_at: derivative (at full weight) or loo (along the removal).
        test_loss: gradient (first order), or moved: evaluate test risks at the predicted parameters.
        start: first step to unroll; influence through earlier steps is ignored.
        audit: instances to remove really, and to nudge for finite differences; 0 for none.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY, Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n b p T",
        incremental="n p",
        storage="n p",
        assumptions="training is smooth in the weights",
        groups="additive",
        paper="Chen et al. 2021",
    )

    def plan(self, prospect: Prospect) -> Work:
        """Hessian products of every batch for all tracked instances."""
        return forward_work(prospect, self)

    def estimate(self, run: Run) -> Influence:
        """Tangents forwards, then their effect on test risks."""
        return self.forward(run)
