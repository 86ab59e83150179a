"""Influence functions, by differentiating refits and by dense curvature written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import curvature_layers, groups_if, last_layer, pbrf, plain, solvers
from influx.oracles.comparison import Comparison, compare
from influx.oracles.dense import dense_matrix, parameters
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, bundled, converged, table, train

Refit = Callable[[Array], Array]  # instance weights -> test losses of the model refitted with them
DECAY = 0.1


def ridge_problem(below: Path, **settings: Any) -> tuple[Toy, Refit]:
    """Ridge regression on the diabetes data at its optimum, and its normal equations."""
    toy = converged(below, bundled("diabetes", 60, 8), Linear(), DECAY, **settings)
    (x, y), (x_test, y_test) = ((plain.with_ones(s.x), s.y.astype(np.float64)) for s in (toy.train, toy.test))

    def refit(weights: Array) -> Array:
        theta = plain.ridge(x, y, weights, DECAY, len(x))
        return np.asarray(0.5 * (x_test @ theta - y_test) ** 2)

    return toy, refit


def logistic_problem(below: Path, **settings: Any) -> tuple[Toy, Refit]:
    """Softmax regression on the iris data at its optimum, and Newton's method."""
    toy = converged(below, bundled("iris", 30, 8), Linear(), DECAY, **settings)
    x, x_test = plain.with_ones(toy.train.x), plain.with_ones(toy.test.x)
    start = plain.softmax_refit(x, toy.train.y, np.ones(len(x)), DECAY, np.zeros((3, x.shape[1])))

    def refit(weights: Array) -> Array:
        return plain.softmax_losses(x_test, toy.test.y, plain.softmax_refit(x, toy.train.y, weights, DECAY, start))

    return toy, refit


def leave_one_out(refit: Refit, n: int) -> Array:
    """Change of every test loss without each instance ``(n, m)``, by refits; denominators stay."""
    return np.stack([refit(1 - unit) for unit in np.eye(n)]) - refit(np.ones(n))


def differences(refit: Refit, n: int, h: float = 1e-3) -> Array:
    """Minus the derivative of every test loss in every instance weight ``(n, m)``, by central differences."""
    up, down = (np.stack([refit(np.ones(n) + s * h * unit) for unit in np.eye(n)]) for s in (1, -1))
    return (down - up) / (2 * h)


def if_exact(below: Path) -> Iterator[Comparison]:
    """Refits on convex problems; dense curvature by autograd on a net."""
    for kind, (toy, refit) in (("ridge", ridge_problem(below)), ("softmax regression", logistic_problem(below))):
        found = toy.estimate("if_exact", damping=0.0)
        hessian = toy.estimate("if_exact", damping=0.0, curvature="hessian")
        norm = _objective_gradient(toy)
        yield Comparison(f"{kind} trained to its optimum (gradient norm)", norm, 1e-10)
        yield compare(f"derivative of {kind} refits", found.values, differences(refit, len(toy.train)), 1e-6)
        yield compare(f"ggn is the Hessian, {kind}", found.values, hessian.values, 1e-11)
        yield _sum_rule(toy, kind, damping=0.0)
        yield _sum_rule(toy, kind, damping=0.7)
    yield from _leverage(below)
    toy = train(below, table(), MLP(width=3), SGD(lr=0.2, weight_decay=DECAY))
    for curvature in ("hessian", "ggn"):
        for damping in (2.0, 5.0):
            expected, own = _dense(toy, curvature, damping)
            found = toy.estimate("if_exact", curvature=curvature, damping=damping)
            assert found.self_influence is not None
            yield compare(f"dense {curvature} by autograd, damping {damping:g}", found.values, expected, 1e-10)
            yield compare(f"the same on itself, {curvature}, damping {damping:g}", found.self_influence, own, 1e-10)


def _objective_gradient(toy: Toy) -> float:
    """Norm of the gradient of the mean training objective."""
    return float(np.linalg.norm(plain.gradients(toy, toy.module(), toy.train).mean(axis=0) + DECAY * parameters(toy)))


def _sum_rule(toy: Toy, kind: str, damping: float) -> Comparison:
    """At the optimum Σ_i g_i / n = -wd θ, so that Σ_i S[i, j] = -wd g_jᵀ (H_r + δI)⁻¹ θ."""
    solved = np.linalg.solve(dense_matrix(toy, "hessian") + damping * np.eye(len(parameters(toy))), parameters(toy))
    expected = -DECAY * plain.gradients(toy, toy.module(), toy.test) @ solved
    found = toy.estimate("if_exact", damping=damping).values.sum(axis=0)
    return compare(f"sum over training instances, {kind}, damping {damping:g}", found, expected, 1e-8)


def _leverage(below: Path) -> Iterator[Comparison]:
    """For ridge, dividing the change of prediction by 1 - h_i makes leave-one-out exact."""
    toy, refit = ridge_problem(below)
    x, n = plain.with_ones(toy.train.x), len(toy.train)
    h = np.einsum("ni,ij,nj->n", x, np.linalg.inv(x.T @ x / n + DECAY * np.eye(x.shape[1])), x) / n
    with torch.no_grad():
        inputs, y = toy.tensors(toy.test)
        residual = (toy.module()(inputs)[:, 0] - y).numpy()
    shift = toy.estimate("if_exact", damping=0.0).values / residual / (1 - h)[:, None]
    changed = residual * shift + shift**2 / 2
    yield compare("leave-one-out ridge after dividing by 1 - leverage", changed, leave_one_out(refit, n), 1e-8)


def _dense(toy: Toy, curvature: str, damping: float) -> tuple[Array, Array]:
    """Influence on test and on itself from a dense matrix."""
    h = dense_matrix(toy, curvature)
    h += damping * np.eye(len(h))
    mine, theirs = (plain.gradients(toy, toy.module(), split) for split in (toy.train, toy.test))
    return mine @ np.linalg.solve(h, theirs.T) / len(mine), np.einsum(
        "np,pn->n", mine, np.linalg.solve(h, mine.T)
    ) / len(mine)


ORACLES = {
    "if_exact": if_exact,
    **solvers.ORACLES,
    **last_layer.ORACLES,
    **curvature_layers.ORACLES,
    **pbrf.ORACLES,
    **groups_if.ORACLES,
}
