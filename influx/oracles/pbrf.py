"""The proximal Bregman response by closed form for squared error, and by scipy for nets, one instance at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.func import functional_call

from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, bundled, table, train

DECAY, TIGHT = 0.05, {"tol": 1e-9}


def pbrf(below: Path) -> Iterator[Comparison]:
    """Linear regression in closed form, nets by quasi-Newton minimisation of the objective as it is written."""
    decayed = SGD(lr=0.05, weight_decay=DECAY)
    toy = train(below, bundled("diabetes", 30, 8), Linear(), decayed, epochs=2)
    for damping in (0.0, 0.3):
        found = toy.estimate("pbrf", damping=damping, **TIGHT)
        values, own = _linear(toy, damping)
        assert found.self_influence is not None
        yield compare(f"linear regression in closed form, damping {damping:g}", found.values, values, 1e-8)
        yield compare(f"the same on itself, damping {damping:g}", found.self_influence, own, 1e-8)
    on_weights = SGD(lr=0.2, weight_decay=DECAY, decay_on="weights")
    for label, task, optimizer in (("classes", "classification", decayed), ("numbers", "regression", on_weights)):
        toy = train(below, table(task), MLP(width=3), optimizer)  # type: ignore[arg-type]
        found = toy.estimate("pbrf", damping=0.3, **TIGHT)
        values, own = minimised(toy, 0.3)
        assert found.self_influence is not None
        yield compare(f"scipy on a net for {label}", found.values, values, 1e-5)
        yield compare(f"the same on itself, {label}", found.self_influence, own, 1e-5)


def _linear(toy: Toy, damping: float) -> tuple[Array, Array]:
    """(P - x_i x_iᵀ/n) d = x_i r_i/n, for P with the damping and weight decay."""
    x, x_test = plain.with_ones(toy.train.x), plain.with_ones(toy.test.x)
    with torch.no_grad():
        residuals = [(toy.module()(toy.tensors(s)[0])[:, 0] - toy.tensors(s)[1]).numpy() for s in (toy.train, toy.test)]
    n, (mine, theirs) = len(x), residuals
    metric = x.T @ x / n + (DECAY + damping) * np.eye(x.shape[1])
    moved = np.stack([np.linalg.solve(metric - np.outer(a, a) / n, a * r / n) for a, r in zip(x, mine, strict=True)])
    shift, own = moved @ x_test.T, (moved * x).sum(axis=1)
    return np.asarray(theirs * shift + shift**2 / 2), np.asarray(mine * own + own**2 / 2)


def minimised(toy: Toy, damping: float) -> tuple[Array, Array]:
    """Influence on test ``(n, m)`` and on itself ``(n,)`` by one minimisation per instance."""
    module, (x, y), (x_test, y_test) = toy.module(), toy.tensors(toy.train), toy.tensors(toy.test)
    start = torch.cat([p.detach().flatten() for p in module.parameters()])
    weight = torch.cat([p.new_full((p.numel(),), _decay(toy, p)) for p in module.parameters()])
    with torch.no_grad():
        outputs = module(x)
    before = plain.risks(toy.task, outputs, y).detach()
    leaf = outputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(plain.risks(toy.task, leaf, y).sum(), leaf)

    def call(theta: Tensor, inputs: Tensor) -> Tensor:
        named = dict(module.named_parameters())
        pieces = theta.split([p.numel() for p in named.values()])
        pairs = zip(named.items(), pieces, strict=True)
        result: Tensor = functional_call(module, {k: piece.view_as(p) for (k, p), piece in pairs}, (inputs,))
        return result

    def objective(flat: Array, i: int) -> tuple[float, Array]:
        theta = torch.from_numpy(flat.copy()).requires_grad_()
        found = call(theta, x)
        risk = plain.risks(toy.task, found, y)
        bregman = risk - before - ((found - outputs) * slope).sum(1)
        held = 0.5 * ((weight + damping) * (theta - start).square()).sum()
        value = bregman.mean() - risk[i] / len(x) + held
        return float(value.detach()), torch.autograd.grad(value, theta)[0].numpy()

    test_before = plain.risks(toy.task, call(start, x_test), y_test).detach()
    values, own = [], []
    for i in range(len(x)):
        best = minimize(objective, start.numpy(), (i,), "BFGS", jac=True, options={"gtol": 1e-10}).x
        with torch.no_grad():
            theta = torch.from_numpy(best)
            values.append((plain.risks(toy.task, call(theta, x_test), y_test) - test_before).numpy())
            own.append(float(plain.risks(toy.task, call(theta, x), y)[i] - before[i]))
    return np.stack(values), np.array(own)


def _decay(toy: Toy, parameter: nn.Parameter) -> float:
    optimizer = toy.learner.optimizer
    return optimizer.weight_decay if optimizer.decay_on == "all" or parameter.ndim > 1 else 0.0


ORACLES = {"pbrf": pbrf}
