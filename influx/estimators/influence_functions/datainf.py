"""Influence functions by DataInf's closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.operators import Kind
from influx.engines.solved import Solved
from influx.engines.solvers.datainf import DataInf
from influx.influence import Scale
from influx.needs import Need
from influx.run import Card


@dataclass(frozen=True, kw_only=True)
class DataInfInfluence(Solved):
    """Influence functions with the mean of inverses in place of the inverse of the mean.

    Estimates: (1/n) Σ_l ∇_l L(z_j; θ)ᵀ B_l ∇_l L(z_i; θ) with B_l = (1/n) Σ_k (λ_l I + ∇_l L(z_k) ∇_l L(z_k)ᵀ)⁻¹ for
        every layer l, a weight with its bias. A score whose order means something: at the paper's λ_l it is many times
        too large. Positive for proponents.
    Needs: per-instance gradients at the final parameters.
    Cost: three passes over the training set for all test instances together, 4 n m p multiplications; memory p per
        test instance, whatever n. Influence on itself takes n² p more.
    Source: Kwon et al. 2024, arXiv:2310.00902, eq. 5, with the opposite sign and over n; weight decay, which it leaves
        out, is added to λ_l.

    Attributes:
        curvature: empirical_fisher, the only one.
        damping: λ of every layer; None means ``factor`` times the mean square of a number of its gradients.
        self_influence: also compute each training instance's influence on itself.
        factor: λ_l in mean squares; larger values bring the score nearer to damped influence functions.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="n p",
        incremental="n p",
        storage="0",
        assumptions="stationary, layers independent, λ large beside gradients",
        groups="additive",
        paper="Kwon et al. 2024",
    )

    curvature: Kind = "empirical_fisher"
    self_influence: bool = False
    factor: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.solved_by.check(self.curvature)

    @property
    def solved_by(self) -> DataInf:
        """Layer by layer."""
        return DataInf(factor=self.factor)
