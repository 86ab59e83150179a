"""The proximal Bregman response function: what damped influence functions approximate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from influx.engines import subsets
from influx.engines.curvature import check_size
from influx.engines.proximal import Moved, Proximal
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

EVALUATIONS = 12  # of the objective per instance, as measured on small nets


@dataclass(frozen=True, kw_only=True)
class ProximalBregmanResponse:
    """Removal by the proximal Bregman response function (PBRF): a question that influence functions can answer.

    Estimates: L(z_j; θ_i) - L(z_j; θ_s) where θ_i minimises (1/n) Σ_k D_k(f(q, x_k), f(θ_s, x_k)) - (1/n) L(z_i; q)
        + (1/2)(q - θ_s)ᵀ(W + λI)(q - θ_s), D the Bregman divergence of the risk in the outputs (Kullback-Leibler
        for cross-entropy), θ_s the trained parameters and W the weight decay: stay near the trained model, in
        outputs and parameters, but no longer fit z_i. Loss units; positive for proponents.
    Needs: per-instance gradients and curvature at the final parameters. No retraining.
    Cost: the exact solver's n p² + p³/3, then about 12 passes over n instances and solves of 2 p² per instance, many
        instances at a time.
    Source: Bae et al. 2022, arXiv:2209.05364, Eq. (6)-(7). Weight decay enters as its own Bregman divergence, so that
        the derivative in the weight of z_i is exactly minus that of ``if_exact`` with the same damping.

    Attributes:
        damping: λ; None means 0 when G + W is well conditioned, else a tenth of its mean eigenvalue, as if_exact.
        tol: gradient to leave, relative to that of the left-out risk, in the norm of (G + W + λI)⁻¹.
        steps: L-BFGS steps after which an instance counts as not converged and has no value.
        indices: ids of the training instances to remove; None means all.
        budget: at most this many, drawn at random as by loo; None means no limit.
        max_p: largest number of parameters to accept.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="n p² + p³ + n² p",
        incremental="n p",
        storage="0",
        assumptions="differentiable; a minimum near θ",
        groups="no",
        paper="Bae et al. 2022",
    )

    damping: float | None = None
    tol: float = 1e-4
    steps: int = 200
    indices: list[int] | None = None
    budget: int | None = None
    max_p: int = 12000

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.damping is not None and self.damping < 0:
            raise ConfigError(f"estimator.damping must not be negative, got {self.damping}; use null for automatic")
        if not 0 < self.tol < 1:
            raise ConfigError(f"estimator.tol must be between 0 and 1, got {self.tol}; 1e-4 is enough")
        if self.steps < 1:
            raise ConfigError(f"estimator.steps must be at least 1, got {self.steps}; 200 is usual")
        if self.budget is not None and self.budget < 1:
            raise ConfigError(f"budget must be at least 1 or null, got {self.budget}; raise it")

    @property
    def protocol(self) -> str:
        """What this ground truth is, in words."""
        return "proximal Bregman response (PBRF) at the trained parameters, no retraining"

    def plan(self, prospect: Prospect) -> Work:
        """The exact solver's work and the minimisations, in double precision."""
        n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
        check_size(p, self.max_p)
        removed = len(self._removed(prospect))
        factor = 2.0 * n * prospect.problem.data.n_outputs * p**2 + 2 / 3 * p**3
        each = EVALUATIONS * (6.0 * prospect.net.macs * n + 4.0 * p**2) + 2.0 * prospect.net.macs * m
        return Work(
            gradients=float(n * prospect.problem.data.n_outputs + removed),
            flops=2 * (factor + removed * each),
            bytes=8.0 * (4.0 * p**2 + n * m) + float(64 << 20),
            rows=removed,
            formula=f"n c p² + p³/3, {removed} x {EVALUATIONS} x (3 n x {prospect.net.macs:.3g} + 2 p²)",
        )

    def estimate(self, run: Run) -> Influence:
        """Minimise for every instance, from the influence function's own step."""
        engine = run.curvature
        solver = Proximal(engine, self.damping, self.max_p)
        removed = torch.from_numpy(self._removed(run)).to(engine.fitted.device)
        values, own = run.zeros(), np.full(len(run.train), np.nan)
        values[:] = np.nan
        steps, residual, lost = [], 0.0, []
        for rows in solver.blocks(removed, "proximal Bregman responses"):
            moved = solver.remove(rows, "response", self.tol, self.steps)
            steps.append(moved.iterations)
            kept, ids = moved.converged.cpu().numpy(), rows.cpu().numpy()
            values[ids[kept]] = solver.changes(moved.theta[moved.converged], run.test).cpu().numpy()
            own[ids[kept]] = moved.own[moved.converged].cpu().numpy()
            residual = max(residual, _largest(moved))
            lost += ids[~kept].tolist()
        if lost:
            some = ", ".join(map(str, run.train.ids[lost[:5]]))
            run.warn(
                f"{len(lost)} of {len(removed)} minimisations did not converge in {self.steps} steps and have no value "
                f"(training ids {some}{'…' if len(lost) > 5 else ''}); set steps={4 * self.steps} or damping="
                f"{solver.stronger:.2g} of pbrf"
            )
        if engine.decoupled:
            run.warn("AdamW's decoupled weight decay is treated as the gradient of a regulariser, which it is not")
        report = solver.metric.report | {
            "curvature": "ggn",
            "removed": len(removed),
            "not_converged": len(lost),
            "steps_mean": float(torch.cat(steps).double().mean()),
            "steps_most": int(torch.cat(steps).max()),
            "residual": residual,
            "seeds": 1,
            "protocol": f"proximal Bregman response, damping={solver.chosen:.3g}",
        }
        return run.influence(values, self_influence=own, report=report)

    def _removed(self, run: Run | Prospect) -> np.ndarray:
        return subsets.asked(run.train.ids, self.indices, self.budget, run.drawn("removed"))


def _largest(moved: Moved) -> float:
    """Largest residual of those that converged."""
    found = moved.residual[moved.converged]
    return float(found.max()) if len(found) else 0.0
