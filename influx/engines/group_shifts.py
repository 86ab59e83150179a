"""Influence of groups of training instances through the change of the parameters that their removal makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.gradients import GradientsAt
from influx.engines.group_shares import Array, Shares, standard_error
from influx.engines.groups import Groups, groups_of
from influx.engines.inverses import Inverse
from influx.engines.operators import Kind, check_curvature
from influx.engines.solved import doubts
from influx.engines.solver_plans import CG_ITERATIONS, exact_work, pass_work, product_work
from influx.engines.solvers.choice import Choice, SolverName, solver_named
from influx.engines.solvers.exact import Exact
from influx.engines.solvers.lissa import LiSSA
from influx.errors import ConfigError
from influx.influence import Influence
from influx.planning import Prospect, Work
from influx.problem import Split
from influx.run import Run

# From rows of groups and the sums (k, p) of their instances' gradients to changes of the parameters (r, k, p).
Move = Callable[[slice, Tensor], Tensor]
NOTE = "what an instance gets is its share of the effect of its group, and no effect on itself is computed"
HELD_BYTES = 512 << 20  # of parameter changes held at once: more groups take more passes over the training set


@dataclass(frozen=True, kw_only=True)
class GroupSolved:
    """What influence functions of groups share: which groups, which curvature, how damped and how solved."""

    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}

    groups: str = "label"
    group_count: int = 10
    group_size: int = 10
    curvature: Kind = "ggn"
    damping: float | None = None
    solver: SolverName = "auto"

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("group_count", "group_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {getattr(self, name)}; raise it")
        check_curvature(self.curvature, self.damping)
        Choice(self.solver)

    def found(self, run: Run | Prospect) -> Groups:
        """The groups.

        Raises:
            ConfigError: the settings do not name groups, or a group has no instances.
        """
        groups = groups_of(run, self.groups, self.group_count, self.group_size)
        empty = [name for name, members in zip(groups.names, groups.members, strict=True) if not members.any()]
        if empty:
            raise ConfigError(
                f"every group needs training instances, {empty[0]!r} has none; leave it out of estimator.groups"
            )
        return groups

    def chosen(self, groups: int, n: int, p: int) -> str:
        """Name of the solver, for as many solves as there are groups."""
        return Choice(self.solver).chosen(n, groups, p, self.curvature)

    def inverse(self, run: Run, groups: Groups) -> Inverse:
        """That of the chosen solver, whose name is in its report."""
        name = self.chosen(len(groups), len(run.train), run.curvature.at.size)
        return solver_named(name, run, self.curvature, self.damping)

    def work(self, prospect: Prospect, solves: int = 1) -> Work:
        """``solves`` solves for each group, after a pass over the training instances."""
        groups, n = len(self.found(prospect)), len(prospect.train)
        name = self.chosen(groups, n, prospect.net.parameters)
        if name == "exact":
            return exact_work(prospect, self.curvature, Exact().max_p)
        if name == "cg":
            return product_work(prospect, self.curvature, float(CG_ITERATIONS * solves * groups)) + pass_work(prospect)
        if name == "lissa":
            steps = float(LiSSA().repeats * LiSSA().depth * solves * groups)
            return product_work(prospect, self.curvature, steps, min(LiSSA().batch_size, n)) + pass_work(prospect)
        return Choice(self.solver).work(prospect, self.curvature, False)


def refuse_whole(groups: Groups, why: str) -> None:
    """Refuse a group of all training instances.

    Raises:
        ConfigError: naming it.
    """
    for name, members in zip(groups.names, groups.members, strict=True):
        if members.all():
            raise ConfigError(
                f"group {name!r} holds all {len(members)} training instances and {why}; leave some instances out of it"
            )


def effects(run: Run, groups: Groups, move: Move) -> tuple[Array, float]:
    """Influence (r, groups, m) of the parameter changes that ``move`` makes, and the objective's gradient norm."""
    gradients = run.gradients.exact
    at_once = max(1, HELD_BYTES // (8 * gradients.size))
    slope, parts = 0.0, []
    for start in range(0, len(groups), at_once):
        part = slice(start, min(start + at_once, len(groups)))
        sums, total, norm = _sums(gradients, run.train, groups.members[part])
        if start == 0:
            slope = doubts(run, total / len(run.train), norm / len(run.train))
        parts.append(_along(gradients, run.test, move(part, sums)))
    return np.concatenate(parts, axis=1), slope


def _sums(gradients: GradientsAt, train: Split, members: NDArray[np.bool_]) -> tuple[Tensor, Tensor, float]:
    """Sums of the gradients of each group ``(k, p)`` and of all ``(p,)``, and of all their norms."""
    device = next(iter(gradients.parameters.values())).device
    each = torch.as_tensor(members, dtype=torch.float64, device=device)
    sums = torch.zeros(len(members), gradients.size, dtype=torch.float64, device=device)
    total, norm = torch.zeros_like(sums[0]), 0.0
    for part, rows in gradients.written(train):
        flat = rows.flat()
        sums.addmm_(each[:, part], flat)
        total += flat.sum(0)
        norm += float(flat.norm(dim=1).sum())
    return sums, total, norm


def _along(gradients: GradientsAt, test: Split, moved: Tensor) -> Array:
    """``(r, k, m)`` products of changes ``(r, k, p)`` with the test gradients."""
    found = torch.empty(*moved.shape[:2], len(test), dtype=torch.float64)
    for part, rows in gradients.written(test, moved[:, :, 0].numel()):
        found[:, :, part] = (moved @ rows.flat().T).cpu()
    return np.asarray(found.numpy())


def grouped(
    run: Run, groups: Groups, found: Array, report: Mapping[str, Any], more: Mapping[str, Array] | None = None
) -> Influence:
    """Tables and shares of influence ``found`` (r, groups, m) from r independent repetitions."""
    shares = Shares(groups)
    spread = np.stack([shares.values(each) for each in found])
    return run.influence(
        spread.mean(axis=0),
        scale="loss",
        stderr=standard_error(spread) if len(found) > 1 else None,
        self_influence_note=NOTE,
        tables=shares.tables(found, run.test.ids, more),
        report=shares.report | dict(report),
    )


def slopes(left: Array, right: Array) -> tuple[Array, float]:
    """Least-squares slopes through the origin of ``left`` on ``right`` (groups, m): for each group, and for all."""
    with np.errstate(invalid="ignore", divide="ignore"):
        each = (left * right).sum(axis=1) / np.square(right).sum(axis=1)
    return each, float((left * right).sum() / max(float(np.square(right).sum()), 1e-300))
