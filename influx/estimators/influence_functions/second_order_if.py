"""Influence functions of groups to second order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from influx.engines.group_shifts import GroupSolved, effects, grouped, refuse_whole, slopes
from influx.engines.groups import Groups
from influx.engines.inverses import Inverse, labels_of
from influx.engines.solved import unsolved
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

LARGE = 0.5  # share of the training set from which a group is no small change


@dataclass(frozen=True, kw_only=True)
class SecondOrderGroupInfluence(GroupSolved):
    """Influence of groups of training instances to second order in their weight.

    Estimates: ∇L(z_j; θ)ᵀ Δ with Δ the change of the parameters without the group G, a share q of the n instances.
        Let A = H_r + δI, and A_G the mean curvature of G's instances plus weight decay and δ. If the others are
        weighted up to mean 1 (``renormalise``), Δ₁ = A⁻¹ Σ_{i in G} (g_i + wd θ) / (n (1 - q)) and
        Δ₂ = Δ₁ - q / (1 - q) · (Δ₁ - A⁻¹ A_G Δ₁). If they keep their weights, Δ₁ = A⁻¹ Σ_{i in G} g_i / n and
        Δ₂ = Δ₁ + q A⁻¹ C_G Δ₁ with C_G the curvature of the risks alone. Both are the first two terms of the series of
        a Newton step, without third derivatives. Tables and (n, m) values as in group_if. Loss units; positive for
        proponents.
    Needs: per-instance gradients and curvature at the final parameters.
    Cost: n gradients, and two solves and a product with G's curvature for each group, whatever the number of test
        instances.
    Source: Basu, You & Feizi 2020, arXiv:1911.00418, who weight the others up; here with the regulariser written out.
        To first order with ``renormalise`` it differs from group_if by 1 / (1 - q) and the regulariser.

    Attributes:
        groups: label (classes, or quantiles of the target), cluster (k-means of the inputs), random, or a csv file
            with columns train_id and group.
        group_count: number of groups for cluster, random and quantiles.
        group_size: instances per random group.
        curvature: ggn, hessian, fisher (the same as ggn for softmax and squared error), sampled_fisher or
            empirical_fisher.
        damping: δ; None means 0 where weight decay alone keeps H_r well conditioned, else a tenth of its mean
            eigenvalue (heuristic).
        solver: auto, exact, cg or lissa.
        order: 1 or 2.
        renormalise: the remaining instances share the weight of the group; false is what group_loo measures by default.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="2 solves per group",
        incremental="2 solves",
        storage="0",
        assumptions="stationary, strictly convex near θ, groups that change the curvature little",
        groups="exact",
        paper="Basu et al. 2020",
    )

    order: int = 2
    renormalise: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.order not in (1, 2):
            raise ConfigError(f"estimator.order must be 1 or 2, got {self.order}")
        if self.solver not in ("auto", "exact", "cg", "lissa"):
            raise ConfigError(
                f"estimator.solver must be auto, exact, cg or lissa, got {self.solver}: the second order needs the "
                "inverse of the same curvature that a group takes out"
            )

    def chosen(self, groups: int, n: int, p: int) -> str:
        """Name of the solver, of those that solve with the curvature itself."""
        name = super().chosen(self.order * groups, n, p)
        return "cg" if name == "ekfac" else name

    def plan(self, prospect: Prospect) -> Work:
        """The solves of all groups."""
        return self.work(prospect, self.order)

    def estimate(self, run: Run) -> Influence:
        """Two solves for each group, then one product with every test gradient."""
        groups = self.found(run)
        if self.renormalise:
            refuse_whole(groups, "nothing is left to take over their weight")
        inverse = self.inverse(run, groups)
        series = Series(run, groups, inverse, self)
        found, slope = effects(run, groups, series.terms)
        unsolved(run, inverse)
        share = groups.members.mean(axis=1)
        report: dict[str, Any] = {"curvature": self.curvature} | inverse.report | {"gradient_norm": slope}
        report["largest_share"] = float(share.max())
        large = int((share >= LARGE).sum())
        if large:
            run.warn(
                f"{large} of {len(groups)} groups hold half of the training instances or more: a series in the share "
                "of a group is not to be trusted there; set estimator.groups to smaller ones"
            )
        if self.order == 1:
            return grouped(run, groups, found, report)
        sizes = np.concatenate(series.sizes)
        report["second_over_first"] = float(sizes.max())
        over = int((sizes > 1).sum())
        if over:
            run.warn(
                f"the second order is larger than the first for {over} of {len(groups)} groups (up to {sizes.max():.2g}"
                " times): the series does not converge there; see estimator=group_if estimator.newton=true"
            )
        _, report["both_over_first"] = slopes(found[0], found[1])
        return grouped(run, groups, found[:1], report, {"second_over_first": sizes})


class Series:
    """The terms of the series, and how large the second is beside the first."""

    def __init__(self, run: Run, groups: Groups, inverse: Inverse, settings: SecondOrderGroupInfluence):
        """``inverse`` is that of H_r + δI."""
        self.run, self.groups, self.inverse, self.settings = run, groups, inverse, settings
        kind, damping = settings.curvature, float(inverse.report["damping"])
        self.operator = run.curvature.operator(kind, damping, labels_of(run, kind))
        self.sizes: list[np.ndarray[Any, np.dtype[np.float64]]] = []

    def terms(self, part: slice, sums: Tensor) -> Tensor:
        """``(2, k, p)`` changes of the parameters to second and to first order, or ``(1, k, p)`` to first."""
        members = self.groups.members[part]
        size = torch.as_tensor(members.sum(axis=1, keepdims=True), dtype=torch.float64, device=sums.device)
        n, again = float(members.shape[1]), self.settings.renormalise
        if again:
            first = self.inverse.solve(sums + size * self._regulariser()) / (n - size)
        else:
            first = self.inverse.solve(sums) / n
        if self.settings.order == 1:
            return first[None]
        own = [self.operator.product(v[None], np.flatnonzero(rows)) for v, rows in zip(first, members, strict=True)]
        curved = torch.cat(own)  # (k, p) A_G Δ₁
        if again:
            second = (self.inverse.solve(curved) - first) * (size / (n - size))
        else:
            second = self.inverse.solve(curved - first * self.operator.shift) * (size / n)
        ratio = second.norm(dim=1) / first.norm(dim=1).clamp_min(1e-300)
        self.sizes.append(ratio.cpu().numpy())
        return torch.stack([first + second, first])

    def _regulariser(self) -> Tensor:
        """``(p,)`` gradient of the regulariser."""
        theta = torch.cat([p.detach().flatten() for p in self.run.curvature.at.parameters.values()])
        return self.run.curvature.decay * theta
