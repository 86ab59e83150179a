"""Influence functions of groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from influx.engines.group_newton import NewtonSteps
from influx.engines.group_shifts import GroupSolved, effects, grouped, refuse_whole, slopes
from influx.engines.inverses import solutions
from influx.engines.solved import unsolved
from influx.engines.solver_plans import CG_ITERATIONS, product_work
from influx.engines.solvers.exact import Exact
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class GroupInfluence(GroupSolved):
    """Influence of groups of training instances, to first order or by a Newton step.

    Estimates: I(G, j) = (1/n) ∇L(z_j; θ)ᵀ (H_r + δI)⁻¹ Σ_{i in G} ∇L(z_i; θ), the signed sum of the influence
        functions of G's instances, which ranks groups well and understates large ones. With ``newton`` the curvature
        of G leaves too, (H_r + δI - (1/n) Σ_{i in G} C_i)⁻¹, which gives the parameters without G exactly when the
        objective is quadratic. Tables: groups (on the mean over test instances) and group_influence (on each). The
        (n, m) values share I(G, j) equally among G's instances; an instance in several groups gets the sum of its
        shares, one in none NaN. Loss units; positive for proponents.
    Needs: per-instance gradients and curvature at the final parameters.
    Cost: n gradients and one solve for each group, whatever the number of test instances; with ``newton`` a matrix
        to factorise for each, p³/3, or a run of conjugate gradients.
    Source: Koh, Ang, Teo & Liang 2019, arXiv:1905.13289; survey section 5.1.1 and Eq. (36), whose sum of absolute
        values is here the signed sum that they predict with.

    Attributes:
        groups: label (classes, or quantiles of the target), cluster (k-means of the inputs), random, or a csv file
            with columns train_id and group.
        group_count: number of groups for cluster, random and quantiles.
        group_size: instances per random group.
        curvature: ggn, hessian, fisher (the same as ggn for softmax and squared error), sampled_fisher or
            empirical_fisher.
        damping: δ; None means 0 where weight decay alone keeps H_r well conditioned, else a tenth of its mean
            eigenvalue (heuristic).
        solver: auto, exact, cg, lissa, arnoldi, ekfac, datainf or identity; exact or cg with newton.
        newton: take the curvature of the group out as well.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="a solve per group",
        incremental="n p",
        storage="0",
        assumptions="stationary, strictly convex near θ",
        groups="additive",
        paper="Koh et al. 2019",
    )

    newton: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.newton and self.solver not in ("auto", "exact", "cg"):
            raise ConfigError(
                f"estimator.newton=true takes a group's curvature out, which estimator.solver={self.solver} cannot; "
                "set estimator.solver=auto, exact or cg"
            )

    def chosen(self, groups: int, n: int, p: int) -> str:
        """Name of the solver: with ``newton`` the cheaper of a matrix and a run of products for each group."""
        if not self.newton or self.solver != "auto":
            return super().chosen(groups, n, p)
        exact, cg = 2.0 * n * p**2 + groups * p**3, 12.0 * CG_ITERATIONS * groups * n * p
        return "exact" if p <= Exact().max_p and exact <= cg else "cg"

    def plan(self, prospect: Prospect) -> Work:
        """A solve for each group, and with ``newton`` a factor or another one for each."""
        work, groups, p = self.work(prospect), len(self.found(prospect)), prospect.net.parameters
        if not self.newton:
            return work
        if self.chosen(groups, len(prospect.train), p) == "exact":
            return work + Work(flops=2 * 2.0 * groups * p**3, bytes=8.0 * 6.0 * p**2, formula=f"{groups} factors")
        return work + product_work(prospect, self.curvature, float(CG_ITERATIONS * groups))

    def estimate(self, run: Run) -> Influence:
        """Sum each group's gradients, solve for them, then one product with every test gradient."""
        groups = self.found(run)
        if self.newton:
            refuse_whole(groups, "nothing is left to fit without them")
        inverse, n = self.inverse(run, groups), len(run.train)
        steps = NewtonSteps(run, groups, self.curvature, inverse)

        def move(part: slice, sums: Tensor) -> Tensor:
            additive = solutions(inverse, sums) / n
            return torch.cat([steps.steps(part, sums)[None], additive]) if self.newton else additive

        found, slope = effects(run, groups, move)
        unsolved(run, inverse)
        report: dict[str, Any] = {"curvature": self.curvature} | inverse.report | {"gradient_norm": slope}
        report["largest_share"] = float(groups.members.mean(axis=1).max())
        if not self.newton:
            return grouped(run, groups, found, report)
        each, report["newton_over_additive"] = slopes(found[0], found[1])
        return grouped(run, groups, found[:1], report, {"newton_over_additive": each})
