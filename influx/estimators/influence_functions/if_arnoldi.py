"""Influence functions in a Krylov space of the curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.solved import Solved
from influx.engines.solvers.arnoldi import Arnoldi, Complement, Negative
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class ArnoldiInfluence(Solved):
    """Influence functions with the dominant eigenpairs of the curvature.

    Estimates: (1/n) ∇L(z_j; θ)ᵀ [V diag(1/(λ + δ)) Vᵀ + c (I - V Vᵀ)] ∇L(z_i; θ) with the largest eigenvalues λ. What
        is outside the subspace counts with c = 1/(δ + mean of the other eigenvalues); as published it counts for
        nothing (``complement=drop``). Loss units; positive for proponents.
    Needs: per-instance gradients and products with the curvature at the final parameters.
    Cost: ``iterations`` products with the curvature, n p each, and as many vectors of p numbers of memory, once;
        then rank · p per instance.
    Source: Schioppa et al. 2022, arXiv:2112.03052. Eigenvalues that are negative are dropped unless ``negative`` says
        otherwise.

    Attributes:
        curvature: ggn, hessian, fisher (the same as ggn for softmax and squared error), sampled_fisher or
            empirical_fisher.
        damping: δ; None means 0 where weight decay alone keeps H_r well conditioned, else a tenth of its mean
            eigenvalue (heuristic).
        self_influence: also compute each training instance's influence on itself.
        iterations: size of the Krylov space.
        rank: how many eigenpairs to keep.
        negative: what becomes of negative eigenvalues: drop, absolute or keep (as published).
        complement: what is outside the subspace: mean, zero (only damping) or drop (as published).
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="q n p",
        incremental="n p",
        storage="0",
        assumptions="stationary; few dominant eigenvalues",
        groups="additive",
        paper="Schioppa et al. 2022",
    )

    iterations: int = 200
    rank: int = 100
    negative: Negative = "drop"
    complement: Complement = "mean"

    @property
    def solved_by(self) -> Arnoldi:
        """A Krylov space."""
        return Arnoldi(iterations=self.iterations, rank=self.rank, negative=self.negative, complement=self.complement)

    def estimate(self, run: Run) -> Influence:
        """Solve for the test gradients, then one product with every training gradient."""
        found = self.influence(run)
        self.solved_by.doubt(run, found.report)
        return found
