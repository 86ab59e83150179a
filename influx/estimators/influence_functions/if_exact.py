"""Influence functions with an exactly factorised curvature matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from influx import progress
from influx.engines.curvature import Kind, check_size, factorise
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

BLOCK_NUMBERS = 8 << 20  # of written-out gradients at a time
NEARLY_STATIONARY = 0.01  # gradient of the objective in mean gradient norms of instances


@dataclass(frozen=True, kw_only=True)
class ExactInfluenceFunction:
    """Influence functions, solved exactly.

    Estimates: (1/n) ∇L(z_j; θ)ᵀ (H_r + δI)⁻¹ ∇L(z_i; θ), the first-order change of test risk j when the weight of
        i in the mean training objective goes from 1 to 0, re-optimised around the final parameters. Loss units;
        positive for proponents.
    Needs: per-instance gradients and curvature at the final parameters.
    Cost: building and factorising a p x p matrix, n p² + p³/3 multiplications, p² numbers of memory (float64).
    Source: Koh & Liang 2017, arXiv:1703.04730; survey Eq. (28)-(35), with the regulariser in H_r.

    Attributes:
        curvature: ggn (equal to the Hessian when the model is linear in its parameters) or hessian.
        damping: δ; None means 0 when H_r is well conditioned, else a tenth of its mean eigenvalue (heuristic).
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

    curvature: Kind = "ggn"
    damping: float | None = None
    max_p: int = 12000

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.damping is not None and self.damping < 0:
            raise ConfigError(f"estimator.damping must not be negative, got {self.damping}; use null for automatic")

    def plan(self, prospect: Prospect) -> Work:
        """Building, factorising and solving, in double precision."""
        n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
        check_size(p, self.max_p)
        outputs = prospect.problem.data.n_outputs
        if self.curvature == "ggn":
            build, how = 2.0 * n * outputs * p**2, f"n {outputs} p²"
        else:  # forward over reverse: about twice a gradient
            build, how = 12.0 * prospect.net.macs * n * p, "6 n p multiply-adds"
        solve = 2 / 3 * p**3 + 4.0 * m * p**2 + 2.0 * n * p**2 + 2.0 * n * m * p
        return Work(
            gradients=n * (outputs if self.curvature == "ggn" else p) + float(n + m),
            flops=2 * (build + solve),
            bytes=8.0 * (4.0 * p**2 + 3.0 * m * p + n * m),
            formula=f"{how} + p³/3 + (2 m + n) p² + n m p with n={n}, m={m}, p={p}",
        )

    def estimate(self, run: Run) -> Influence:
        """Solve once for all test gradients, then one product with every training gradient."""
        engine, n = run.curvature, len(run.train)
        solver = factorise(engine.matrix(self.curvature, self.max_p), self.damping)
        gradients = run.gradients.at(run.final, dtype=torch.float64)
        rhs = torch.cat([rows.flat() for _, rows in gradients.blocks(run.test)])
        solved = solver.solve(rhs)  # (m, p)
        values, own = run.zeros(), torch.zeros(n, dtype=torch.float64)
        total, norms = torch.zeros_like(rhs[0]), 0.0
        with progress.task("influence", n) as done:
            for part, rows in gradients.blocks(run.train, max(1, BLOCK_NUMBERS // gradients.size)):
                flat = rows.flat()
                total, norms = total + flat.sum(0), norms + float(flat.norm(dim=1).sum())
                values[part] = (flat @ solved.T / n).cpu().numpy()
                own[part] = (solver.quadratic(flat) / n).cpu()
                done(len(flat))
        slope = engine.stationarity(total / n)
        if slope > NEARLY_STATIONARY * norms / n:
            run.warn(
                f"the training objective is not at a minimum: its gradient has norm {slope:.2g}, an instance's "
                f"{norms / n:.2g} on average; influence functions describe a minimum"
            )
        if engine.decoupled:
            run.warn("AdamW's decoupled weight decay is treated as the gradient of a regulariser, which it is not")
        report = solver.report | {
            "curvature": self.curvature,
            "residual": solver.residual(solved, rhs),
            "gradient_norm": slope,
        }
        return run.influence(values, self_influence=own.numpy(), report=report)
