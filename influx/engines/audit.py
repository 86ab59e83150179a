"""Estimates of removal held against a few real ones, and how far training can be predicted at all."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import interrupts, progress
from influx.engines.path import Path
from influx.engines.unrolled import Growth
from influx.learners.torch.sequential import Recipe, State, advance
from influx.problem import Split

NUDGE = 1e-4  # of an instance's weight, in finite differences
UNLIKE = 0.05  # relative error above which a derivative or a removal is worth a warning
FAR = 0.5  # of the most influential instances: removals that can be predicted lie at 0.3 to 0.4
SENSITIVE = 0.5  # logarithm of growth; the four trainings of docs/leave_one_out.md lie at -0.05, 0.21, 0.79 and 0.83


def chosen(values: NDArray[np.float64], count: int) -> list[int]:
    """Rows to audit: the most influential one, the median one, and so on evenly between."""
    norms = np.where(np.isnan(values).any(1), -np.inf, np.linalg.norm(values, axis=1))
    order = np.argsort(-norms, kind="stable")[: int(np.isfinite(norms).sum())]
    places = [round(k) for k in np.linspace(0, len(order) // 2, min(count, len(order)))]
    return [int(order[place]) for place in dict.fromkeys(places)]


def audit(
    path: Path, train: Split, test: Split, values: NDArray[np.float64], count: int, derivative: bool
) -> tuple[dict[str, Any], list[str]]:
    """Train again, in float64, without ``count`` instances and, for a ``derivative``, with slightly changed weights.

    Relative errors of ``values`` against central differences and against removals, over all test instances.
    """
    rows = chosen(values, count)
    if not rows:
        return {}, []
    row_of = path.rows_in(train).tolist()
    members = [row_of.index(row) for row in rows]
    designs: list[dict[int, float]] = [{}, *({i: 0.0} for i in members)]
    if derivative:
        designs += [{i: 1 + sign * NUDGE} for i in members for sign in (1, -1)]
    with progress.task("audit", len(designs)) as done:
        losses = []
        for weights in designs:
            losses.append(_risks(path, weights, test))
            done(1)
    found = values[rows]
    removed = np.stack(losses[1 : len(rows) + 1]) - losses[0]
    report: dict[str, Any] = {"audited": len(rows), "removal_error": _error(found, removed)}
    doubts = []
    if derivative:
        nudged = np.stack(losses[len(rows) + 1 :]).reshape(len(rows), 2, -1)
        slopes = -(nudged[:, 0] - nudged[:, 1]) / (2 * NUDGE)
        report["derivative_error"] = _error(found, slopes)
        if not report["derivative_error"] < UNLIKE:
            doubts.append(
                f"the derivative differs from finite differences of retraining by {report['derivative_error']:.0%}: "
                "rounding decides the course of this training, set training.dtype=float64 or train more calmly"
            )
    if not report["removal_error"] < FAR:
        doubts.append(
            f"really removing {len(rows)} instances changes test losses otherwise than estimated, by "
            f"{report['removal_error']:.0%}: the effect of a whole instance is not linear in its weight here; "
            "a smooth activation, a lower learning rate or estimator.linearize_at=loo (hydra) help"
        )
    return report, doubts


def sensitivity(growth: Growth, steps: int) -> tuple[dict[str, Any], list[str]]:
    """The adjoint's growth over the training, and a warning when small changes at the start matter much at its end."""
    report = {"growth": growth.total, "growth_per_step": growth.total / max(steps, 1)}
    if growth.total < SENSITIVE:
        return report, []
    return report, [
        f"the effect of a change of the parameters grows {np.exp(growth.total):.3g}-fold from the start of training to "
        "its end: training is sensitive, and removing a whole instance need not do what its derivative says"
    ]


def _error(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-300))


def _risks(path: Path, changed: dict[int, float], test: Split) -> NDArray[np.float64]:
    """``(n_test,)`` after training with the weights of some instances changed."""
    recipe = _in_float64(path.fitted.recipe)
    module = path.fitted.build(0).to(recipe.device).double()
    weights = torch.ones(len(recipe.ids), dtype=torch.float64, device=recipe.device)
    for row, weight in changed.items():
        weights[row] = weight
    state = State(step=0, module=module, slots=recipe.optimizer.slots(list(module.parameters())))
    for _ in advance(recipe, state, recipe.total, weights, "full"):
        interrupts.check()
    x, y = (_wide(t) for t in path.fitted.tensors(test))
    with torch.no_grad():
        losses: Tensor = recipe.task.loss(module.eval()(x), y)
    return losses.cpu().numpy()


def _in_float64(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, x=_wide(recipe.x), y=_wide(recipe.y))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
