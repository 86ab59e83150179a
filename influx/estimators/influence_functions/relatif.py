"""RelatIF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from influx.engines.solved import Solved
from influx.engines.solvers.choice import Choice, SolverName
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run

Constraint = Literal["theta", "loss"]


@dataclass(frozen=True, kw_only=True)
class RelatIF(Solved):
    """Influence relative to what an instance changes overall.

    Estimates: the influence function of i on j, divided by ‖(H_r + δI)⁻¹ g_i‖ (``theta``: the change of the
        parameters) or by √(g_iᵀ (H_r + δI)⁻¹ g_i) (``loss``: that of all training risks). Positive for proponents;
        only the order within a column means something. An instance whose gradient is zero scores 0.
    Needs: per-instance gradients and curvature at the final parameters.
    Cost: that of influence functions and one more solve for each training instance.
    Source: Barshan, Brunet & Dziugaite 2020, arXiv:2003.11630; survey Eq. (66), which keeps the factor 1/n as here.

    Attributes:
        curvature: ggn, hessian, fisher (the same as ggn for softmax and squared error), sampled_fisher or
            empirical_fisher.
        damping: δ; None means 0 where weight decay alone keeps H_r well conditioned, else a tenth of its mean
            eigenvalue (heuristic).
        self_influence: also compute each training instance's influence on itself.
        constraint: theta or loss.
        solver: auto, exact, cg, lissa, arnoldi, ekfac, datainf or identity; each with its own estimator's defaults.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="n solves",
        incremental="n p",
        storage="0",
        assumptions="stationary, strictly convex near θ",
        groups="additive",
        paper="Barshan et al. 2020",
    )

    constraint: Constraint = "theta"
    solver: SolverName = "auto"

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.constraint not in get_args(Constraint):
            raise ConfigError(f"estimator.constraint must be theta or loss, got {self.constraint}")

    @property
    def solved_by(self) -> Choice:
        """By name or by size, with all training instances."""
        return Choice(self.solver, all_rows=True)

    def estimate(self, run: Run) -> Influence:
        """Influence functions, each row divided by what its instance changes."""
        return self.influence(run, self.constraint)
