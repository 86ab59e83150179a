"""Ridge regressions in closed form, many at once."""

from __future__ import annotations

import torch
from torch import Tensor

from influx.learners.linear.newton import cholesky, solve
from influx.learners.linear.system import System

DIVISORS = 8  # distinct normalisers for which downdates are worth one factorisation each
LEAST_PIVOT = 1e-6  # of a downdate that is as accurate as solving anew


def minimise(system: System, weights: Tensor, divisors: Tensor) -> Tensor:
    """Parameters ``(models, 1, q)`` at the optimum of every row of ``weights`` divided by its divisor.

    Rows that differ from all ones in fewer entries than there are inputs are solved by downdating.

    Raises:
        NumericalError: a system is singular.
    """
    changed = (weights != 1).sum(1)
    few, distinct = changed < system.x.shape[1], torch.unique(divisors)
    found = torch.empty(len(weights), 1, system.x.shape[1], dtype=weights.dtype)
    solved = torch.zeros(len(weights), dtype=torch.bool)
    if len(distinct) <= DIVISORS:
        for divisor in distinct:
            base = _Base(system, divisor)
            for count in torch.unique(changed[few]):
                rows = torch.nonzero(few & (divisors == divisor) & (changed == count)).flatten()
                if len(rows):
                    found[rows], solved[rows] = base.downdated(weights[rows], int(count))
    rest = torch.nonzero(~solved).flatten()
    if len(rest):
        v = weights[rest] / divisors[rest, None]
        right = (v * system.target) @ system.x
        factor = cholesky(system.hessian(v, torch.empty(len(rest), 1, len(system.x), dtype=v.dtype)))
        found[rest] = solve(factor, right[:, None])
    return found


class _Base:
    """The solution with all weights 1, from which others differ in few entries."""

    def __init__(self, system: System, divisor: Tensor) -> None:
        self.system = system
        gram = system.x.T @ system.x + torch.diag(system.penalty * divisor)
        self.factor = cholesky(gram[None])[0]
        self.theta = torch.cholesky_solve(system.x.T @ system.target.T, self.factor)[:, 0]
        self.residual = system.x @ self.theta - system.target[0]

    def downdated(self, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Solutions ``(models, 1, q)`` of rows with ``count`` entries other than 1, and which are accurate.

        With Δ = diag(w_S - 1) and G = X_S A⁻¹ X_Sᵀ, θ_w = θ - A⁻¹ X_Sᵀ (I + Δ G)⁻¹ Δ e_S.
        """
        if not count:
            return self.theta.expand(len(weights), 1, -1), torch.ones(len(weights), dtype=torch.bool)
        where = torch.nonzero(weights != 1)[:, 1].view(len(weights), count)
        change = weights.gather(1, where) - 1
        x = self.system.x[where]  # (models, count, q)
        solved = torch.cholesky_solve(x.reshape(-1, x.shape[-1]).T, self.factor).T.view_as(x)
        inner = torch.eye(count, dtype=x.dtype) + change[..., None] * (x @ solved.mT)
        factor, pivots, _ = torch.linalg.lu_factor_ex(inner)
        least = factor.diagonal(dim1=-2, dim2=-1).abs().amin(1)
        right = (change * self.residual[where])[..., None]
        step = solved.mT @ torch.linalg.lu_solve(factor, pivots, right)
        return self.theta - step.mT, least > LEAST_PIVOT
