"""Renormalised influence functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.solved import Solved
from influx.engines.solvers.choice import Choice, SolverName
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class RenormalisedInfluence(Solved):
    """Influence functions of unit training gradients.

    Estimates: (1/n) ∇L(z_j; θ)ᵀ (H_r + δI)⁻¹ ∇L(z_i; θ) / ‖∇L(z_i; θ)‖, so that a large loss alone makes nobody
        influential. Positive for proponents; only the order means something. An instance whose gradient is zero
        scores 0.
    Needs: per-instance gradients and curvature at the final parameters.
    Cost: that of influence functions.
    Source: Hammoudeh & Lowd 2022, arXiv:2201.10055; survey Eq. (69). As in their code only the training gradient is
        divided: the test gradient's norm does not change the order within a column.

    Attributes:
        curvature: ggn, hessian, fisher (the same as ggn for softmax and squared error), sampled_fisher or
            empirical_fisher.
        damping: δ; None means 0 where weight decay alone keeps H_r well conditioned, else a tenth of its mean
            eigenvalue (heuristic).
        self_influence: also compute each training instance's influence on itself.
        solver: auto, exact, cg, lissa, arnoldi, ekfac, datainf or identity; each with its own estimator's defaults.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="that of the solver",
        incremental="n p",
        storage="0",
        assumptions="stationary, strictly convex near θ",
        groups="additive",
        paper="Hammoudeh & Lowd 2022",
    )

    solver: SolverName = "auto"

    @property
    def solved_by(self) -> Choice:
        """By name or by size."""
        return Choice(self.solver, all_rows=self.self_influence)

    def estimate(self, run: Run) -> Influence:
        """Influence functions, each row divided by the norm of its gradient."""
        return self.influence(run, "gradient")
