"""HyDRA's fast variant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.path import check_steps, recorded
from influx.engines.stepwise import Stepwise, visit_work
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class FastHyDRA(Stepwise):
    """HyDRA without the Hessian.

    Estimates: -dL(z_j; θ_T)/dw_i when the change of later gradients is ignored:
        Σ_t∋i κ_t/b_t ⟨∇L(z_i; θ_t), ∇L(z_j; θ_T)⟩, where κ_t is how far a unit of gradient at step t has moved
        parameters at the end (η_t for plain SGD). Loss units; positive for proponents. It can be far off: a few
        instances are held against the full derivative.
    Needs: every step of the training (replayed); per-instance gradients; curvature of its batches for the audit.
    Cost: T b gradients and T b m dot products; memory O(n m) for SGD (lean). For Adam and clipped steps the optimizer
        is differentiated backwards, 3 m p numbers.
    Source: Chen et al. 2021, arXiv:2102.02515, section 4.3; survey Algorithm 4, Eq. (62)-(65), (80). The published hook
        for Adam is not its derivative; this one is.

    Attributes:
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        audit: instances to compare with the derivative that includes curvature; 0 for none.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY, Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="(b + m) p T",
        incremental="p T b",
        storage="n m",
        assumptions="negligible curvature",
        groups="additive",
        paper="Chen et al. 2021",
    )

    audit: int = 4

    def plan(self, prospect: Prospect) -> Work:
        """Gradients of every batch."""
        if self.audit:
            check_steps(recorded(prospect))
        return visit_work(prospect)

    def estimate(self, run: Run) -> Influence:
        """A kernel of scalars, or backwards without Hessian products."""
        return self.without_curvature(run, self.audit)
