"""Influence as a sum over the steps that visit an instance: exact changes of the risk, or their first order."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import progress
from influx.engines.curves import Curves
from influx.engines.gradients import Gradients
from influx.engines.kernels import inverse_norm
from influx.engines.path import Path
from influx.learners.torch.sequential import decays
from influx.problem import Split


@torch.no_grad()
def first_order(
    path: Path,
    gradients: Gradients,
    values: NDArray[np.float64],
    own: NDArray[np.float64],
    curves: Curves,
    *,
    every: int = 1,
    unit: bool = False,
) -> NDArray[np.float64]:
    """Σ over visits of η_t/b_t ⟨∇L(z_i; θ_t), ∇L(z_j; θ_t)⟩ into ``values`` and ``own``.

    Between unit gradients if ``unit``; of ``every`` so many steps one, counted as often. Returns ``(n_test,)`` what
    weight decay contributes.
    """
    recipe, train, test = path.fitted.recipe, gradients.train, gradients.test
    row_of, sums, decayed = path.rows_in(train), torch.from_numpy(values), np.zeros(len(test))
    at = None
    with progress.task("influence of steps", path.total) as done:
        for state in path.forward(0, path.total - 1):
            done(1)
            if state.step % every:
                continue
            at = at or gradients.of(state.module)
            rows, x, y = path.batch(state.step)
            mine, rate = at.rows(x, y), every * recipe.lr(state.step)
            weight = rate * path.fitted.trajectory.clip[state.step] / len(rows)
            squares = mine.squares()
            into = row_of[rows.cpu()]
            known = into >= 0
            into = into[known]
            decay = _decay(path, list(at.parameters.values()))
            for columns, theirs in at.blocks(test):
                dots = mine.dot(theirs)
                if unit:
                    dots = dots * inverse_norm(squares)[:, None] * inverse_norm(theirs.squares())[None, :]
                dots = dots.double().cpu()[known]
                sums[:, columns].index_add_(0, into, dots, alpha=weight)
                curves.add(state.step, into.numpy(), columns, dots.numpy(), weight)
                if decay is not None and not unit:
                    decayed[columns] += rate * (theirs.flat() @ decay).double().cpu().numpy()
            mine_own = (squares > 0).double() if unit else squares.double()
            gained = weight * mine_own.cpu()[known].numpy()
            own[into.numpy()] += gained
            curves.add_own(state.step, into.numpy(), gained)
    return decayed


def _decay(path: Path, params: list[torch.nn.Parameter]) -> Tensor | None:
    """``(p,)`` gradient of the regulariser, or None without one."""
    each = decays(path.fitted.recipe.optimizer, [p.shape for p in params])
    if not any(each):
        return None
    return torch.cat([wd * p.detach().flatten() for p, wd in zip(params, each, strict=True)])


@torch.no_grad()
def exact(
    path: Path, train: Split, test: Split, values: NDArray[np.float64], own: NDArray[np.float64], curves: Curves
) -> NDArray[np.float64]:
    """(L(z_j; θ_t) - L(z_j; θ_t+1)) / b_t, summed over the visits of i; into ``values`` and ``own``.

    Returns ``(n_test,)`` the fall of the test risks over the whole training, which the sums over i equal.
    """
    row_of, sums = path.rows_in(train), torch.from_numpy(values)
    first = before = torch.empty(0)
    members: tuple[Tensor, Tensor] | None = None  # rows of the last batch and its risks before the step
    with progress.task("influence of steps", path.total) as done:
        for state in path.forward(0, path.total):
            after = _risks(path, state.module, test)
            if state.step == 0:
                first = after
            if members is not None:
                rows, risks = members
                share = 1 / len(rows)
                into = row_of[rows.cpu()]
                known = into >= 0
                fall = (before - after).expand(int(known.sum()), -1)
                sums.index_add_(0, into[known], fall, alpha=share)
                curves.add(state.step - 1, into[known].numpy(), slice(0, len(test)), fall.numpy(), share)
                gained = share * (risks - _of_rows(path, state.module, rows))[known].numpy()
                own[into[known].numpy()] += gained
                curves.add_own(state.step - 1, into[known].numpy(), gained)
                done(1)
            if state.step < path.total:
                rows, _, _ = path.batch(state.step)
                members = rows, _of_rows(path, state.module, rows)
            before = after
    return (first - before).numpy()


def _risks(path: Path, module: torch.nn.Module, split: Split) -> Tensor:
    """``(n,)`` in float64."""
    y = path.fitted.tensors(split)[1]
    outputs = path.fitted.outputs(module, split)
    return path.fitted.task.loss(outputs.double(), y.double() if y.is_floating_point() else y).cpu()


def _of_rows(path: Path, module: torch.nn.Module, rows: Tensor) -> Tensor:
    recipe = path.fitted.recipe
    y = recipe.y[rows]
    outputs = module(recipe.inputs(rows)).double()
    return recipe.task.loss(outputs, y.double() if y.is_floating_point() else y).cpu()
