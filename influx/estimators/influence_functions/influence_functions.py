"""Influence functions with a solver that fits the size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.solved import Solved
from influx.engines.solvers.choice import Choice, SolverName
from influx.influence import Scale
from influx.needs import Need
from influx.run import Card


@dataclass(frozen=True, kw_only=True)
class InfluenceFunctions(Solved):
    """Influence functions with the most exact solver that is affordable.

    Estimates: (1/n) ∇L(z_j; θ)ᵀ (H_r + δI)⁻¹ ∇L(z_i; θ). Loss units; positive for proponents.
    Needs: per-instance gradients and curvature at the final parameters.
    Cost: that of the chosen solver: the exact matrix for small nets, conjugate gradients for larger ones, EK-FAC where
        those would take too long. The report says which.
    Source: Koh & Liang 2017, arXiv:1703.04730; survey Eq. (28)-(35), with the regulariser in H_r.

    Attributes:
        curvature: ggn, hessian, fisher (the same as ggn for softmax and squared error), sampled_fisher or
            empirical_fisher.
        damping: δ; None means 0 where weight decay alone keeps H_r well conditioned, else a tenth of its mean
            eigenvalue (heuristic).
        self_influence: also compute each training instance's influence on itself.
        solver: auto, exact, cg, lissa, arnoldi, ekfac, datainf or identity; each with its own estimator's defaults.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="that of the solver",
        incremental="n p",
        storage="0",
        assumptions="stationary, strictly convex near θ",
        groups="additive",
        paper="Koh & Liang 2017",
    )

    solver: SolverName = "auto"

    @property
    def solved_by(self) -> Choice:
        """By name or by size."""
        return Choice(self.solver, all_rows=self.self_influence)
