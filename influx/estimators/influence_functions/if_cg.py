"""Influence functions by conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.solved import Solved
from influx.engines.solvers.cg import ConjugateGradients, Preconditioner
from influx.influence import Scale
from influx.needs import Need
from influx.run import Card


@dataclass(frozen=True, kw_only=True)
class ConjugateGradientInfluence(Solved):
    """Influence functions, solved by conjugate gradients without a matrix.

    Estimates: (1/n) ∇L(z_j; θ)ᵀ (H_r + δI)⁻¹ ∇L(z_i; θ) to the residual that ``tolerance`` allows. Loss units;
        positive for proponents.
    Needs: per-instance gradients and products with the curvature at the final parameters.
    Cost: a few dozen products with the whole training set's curvature per block of right-hand sides, n p each; all
        right-hand sides of a block share one Krylov space, so that many take fewer iterations each than one alone.
    Source: Koh & Liang 2017, arXiv:1703.04730, section 3; Martens 2010; block method of Dubrulle 2001.

    Attributes:
        curvature: ggn, hessian, fisher (the same as ggn for softmax and squared error), sampled_fisher or
            empirical_fisher.
        damping: δ; None means 0 where weight decay alone keeps H_r well conditioned, else a tenth of its mean
            eigenvalue (heuristic).
        self_influence: also compute each training instance's influence on itself (a solve for each).
        tolerance: largest relative residual of a solution.
        max_iterations: products with the curvature per block of right-hand sides.
        preconditioner: none or ekfac.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="n p per iteration",
        incremental="n p",
        storage="0",
        assumptions="stationary, positive curvature near θ",
        groups="additive",
        paper="Koh & Liang 2017",
    )

    self_influence: bool = False
    tolerance: float = 1e-6
    max_iterations: int = 200
    preconditioner: Preconditioner = "none"

    @property
    def solved_by(self) -> ConjugateGradients:
        """Block conjugate gradients."""
        return ConjugateGradients(
            tolerance=self.tolerance, max_iterations=self.max_iterations, preconditioner=self.preconditioner
        )
