"""Influence functions with an exactly factorised curvature matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.solved import Solved
from influx.engines.solvers.exact import Exact
from influx.influence import Scale
from influx.needs import Need
from influx.run import Card


@dataclass(frozen=True, kw_only=True)
class ExactInfluenceFunction(Solved):
    """Influence functions, solved exactly.

    Estimates: (1/n) ∇L(z_j; θ)ᵀ (H_r + δI)⁻¹ ∇L(z_i; θ), the first-order change of test risk j when the weight of
        i in the mean training objective goes from 1 to 0, re-optimised around the final parameters. Loss units;
        positive for proponents.
    Needs: per-instance gradients and curvature at the final parameters.
    Cost: building and factorising a p x p matrix, n p² + p³/3 multiplications, p² numbers of memory (float64).
    Source: Koh & Liang 2017, arXiv:1703.04730; survey Eq. (28)-(35), with the regulariser in H_r.

    Attributes:
        curvature: ggn (equal to the Hessian when the model is linear in its parameters), hessian, fisher (the same as
            ggn for softmax and squared error), sampled_fisher or empirical_fisher.
        damping: δ; None means 0 when H_r is well conditioned, else a tenth of its mean eigenvalue (heuristic).
        self_influence: also compute each training instance's influence on itself.
        max_p: largest number of parameters to accept.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="n p² + p³",
        incremental="n p",
        storage="0",
        assumptions="stationary, strictly convex near θ",
        groups="additive",
        paper="Koh & Liang 2017",
    )

    max_p: int = 12000

    @property
    def solved_by(self) -> Exact:
        """The whole matrix."""
        return Exact(max_p=self.max_p)
