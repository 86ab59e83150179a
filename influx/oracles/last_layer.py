"""Influence of the last layer, by dense curvature written out one instance at a time and by differentiating refits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from influx.learners.torch.optimizers import SGD, DecayOn
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train

DECAY = 0.1
CASES: list[tuple[bool, DecayOn]] = [(True, "all"), (True, "weights"), (False, "all")]  # bias, what is decayed


def if_last_layer(below: Path) -> Iterator[Comparison]:
    """Curvature of the head by autograd, and the exact influence function where the head is the whole model."""
    from influx.oracles.influence_functions import differences, logistic_problem, ridge_problem  # which lists this one

    for kind, problem in (("ridge", ridge_problem), ("logistic", logistic_problem)):
        toy, refit = problem(below)
        found = toy.estimate("if_last_layer", damping=0.0)
        yield compare(f"differentiated refits, {kind}", found.values, differences(refit, len(toy.train)), 1e-6)
        yield compare(f"if_exact, {kind}", found.values, toy.estimate("if_exact", damping=0.0).values, 1e-10)
    for task in ("classification", "regression"):
        for bias, on in CASES:
            model, optimizer = MLP(width=3, bias=bias), SGD(lr=0.2, weight_decay=DECAY, decay_on=on)
            toy = train(below, table(task), model, optimizer)
            kind = f"{task}, {'with' if bias else 'without'} bias, decay on {on}"
            found = toy.estimate("if_last_layer", damping=0.3)
            values, own = _dense(toy, 0.3)
            assert found.self_influence is not None
            yield compare(f"dense by autograd, {kind}", found.values, values, 1e-10)
            yield compare(f"the same on itself, {kind}", found.self_influence, own, 1e-10)
    toy = train(below, table(), Linear(), SGD(lr=0.2))
    mean = np.trace(head_hessian(toy, toy.module())) / len(head_hessian(toy, toy.module()))
    automatic = toy.estimate("if_last_layer").values
    yield compare("a thousandth of the mean eigenvalue", automatic, _dense(toy, 1e-3 * mean)[0], 1e-8)


def head_of(module: nn.Module) -> nn.Linear:
    """The last layer of a sequential module."""
    assert isinstance(module, nn.Sequential) and isinstance(module[-1], nn.Linear)
    return module[-1]


def head_hessian(toy: Toy, module: nn.Module) -> Array:
    """Hessian of the mean training objective in the head's weight and bias, column by column of its gradient."""
    params, (x, y) = list(head_of(module).parameters()), toy.tensors(toy.train)
    mean = plain.risks(toy.task, module(x), y).mean()
    flat = torch.cat([g.flatten() for g in torch.autograd.grad(mean, params, create_graph=True)])
    rows = []
    for entry in flat:
        pieces = torch.autograd.grad(entry, params, retain_graph=True)
        rows.append(torch.cat([piece.flatten() for piece in pieces]).numpy())
    return np.stack(rows) + np.diag(head_decay(toy, module))


def head_decay(toy: Toy, module: nn.Module) -> Array:
    """Weight decay of each parameter of the head."""
    optimizer = toy.learner.optimizer
    parts = []
    for p in head_of(module).parameters():
        decayed = optimizer.decay_on == "all" or p.ndim > 1
        parts.append(np.full(p.numel(), optimizer.weight_decay if decayed else 0.0))
    return np.concatenate(parts)


def _dense(toy: Toy, damping: float) -> tuple[Array, Array]:
    """Influence on test and on itself."""
    module = toy.module()
    h = head_hessian(toy, module)
    h += damping * np.eye(len(h))
    params = list(head_of(module).parameters())
    mine, theirs = (plain.gradients(toy, module, split, params) for split in (toy.train, toy.test))
    own = np.array([g @ np.linalg.solve(h, g) for g in mine])
    return mine @ np.linalg.solve(h, theirs.T) / len(mine), own / len(mine)


ORACLES = {"if_last_layer": if_last_layer}
