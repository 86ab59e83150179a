"""Leave-one-out, by training again one model at a time with torch's own optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from influx.learners.torch.optimizers import SGD, Adam, AdamW, Optimizer
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.oracles import averaged, plain, sampled, simulated
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, bundled, converged, images, table, train

CASES: dict[str, tuple[Optimizer, dict[str, Any]]] = {
    "sgd": (SGD(lr=0.3), {}),
    "momentum, weight decay": (SGD(lr=0.2, momentum=0.9, weight_decay=0.05), {}),
    "dampening": (SGD(lr=0.3, momentum=0.9, dampening=0.4), {}),
    "nesterov, weight decay on weights": (
        SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05, decay_on="weights"),
        {},
    ),
    "adam, weight decay": (Adam(lr=0.01, weight_decay=0.1), {}),
    "adamw": (AdamW(lr=0.01, weight_decay=0.5), {}),
    "momentum, clipping, cosine": (
        SGD(lr=0.3, momentum=0.9),
        {"clip_norm": 0.5, "schedule": "cosine", "warmup_steps": 2, "drop_last": True},
    ),
    "adam, clipping": (Adam(lr=0.01), {"clip_norm": 0.1}),
}
EXACT = 1e-9  # float64 sums in another order, over a few steps


def torch_optimizer(optimizer: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of torch with the same settings; tensors without decay in a group of their own."""
    decayed = [p for p in module.parameters() if optimizer.decay_on == "all" or p.ndim > 1]
    others = [p for p in module.parameters() if not any(p is q for q in decayed)]
    groups = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if isinstance(optimizer, SGD):
        momentum, dampening, nesterov = optimizer.momentum, optimizer.dampening, optimizer.nesterov
        return torch.optim.SGD(groups, lr=optimizer.lr, momentum=momentum, dampening=dampening, nesterov=nesterov)
    assert isinstance(optimizer, Adam | AdamW)
    made = torch.optim.Adam if isinstance(optimizer, Adam) else torch.optim.AdamW
    return made(groups, lr=optimizer.lr, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps)


def retrain(toy: Toy, removed: int | None = None, renormalise: bool = False) -> nn.Module:
    """Train again in the recorded batches and learning rates without one row; a module in eval mode.

    The divisor of a batch is its recorded size, or with ``renormalise`` what is left of it.
    """
    module, record, limit = toy.module(0).train(), toy.trajectory(), toy.learner.training.clip_norm
    optimizer = torch_optimizer(toy.learner.optimizer, module)
    x, y = toy.tensors(toy.train)
    row_of = {int(identity): row for row, identity in enumerate(toy.train.ids)}
    for step, lr in enumerate(record["lr"][:, 0]):
        batch = record["batch_ids"][record["batch_offsets"][step] : record["batch_offsets"][step + 1]]
        rows = [row_of[int(identity)] for identity in batch]
        kept = [row for row in rows if row != removed]
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        optimizer.zero_grad()
        total = plain.risks(toy.task, module(x[kept]), y[kept]).sum()
        (total / (max(len(kept), 1) if renormalise else len(rows))).backward()
        if limit is not None:
            nn.utils.clip_grad_norm_(module.parameters(), limit)
        optimizer.step()
    return module.eval()


def leave_one_out(toy: Toy, renormalise: bool = False) -> tuple[Array, Array]:
    """Influence on test ``(n_train, n_test)`` and on itself ``(n_train,)``."""
    full = retrain(toy)
    test, own = plain.losses(toy, full, toy.test), plain.losses(toy, full, toy.train)
    values, itself = [], []
    for row in range(len(toy.train)):
        module = retrain(toy, row, renormalise)
        values.append(plain.losses(toy, module, toy.test) - test)
        itself.append(plain.losses(toy, module, toy.train)[row] - own[row])
    return np.stack(values), np.array(itself)


def _against_torch(label: str, toy: Toy, bound: float = EXACT, **settings: Any) -> Iterator[Comparison]:
    found = toy.estimate("loo", ceiling_budget=0, **settings)
    assert found.self_influence is not None
    values, own = leave_one_out(toy, bool(settings.get("renormalise", False)))
    yield compare(f"torch.optim loop, {label}", found.values, values, bound)
    yield compare(f"the same on itself, {label}", found.self_influence, own, bound)


def loo(below: Path) -> Iterator[Comparison]:
    """Recorded trainings repeated by torch, ridge in closed form, and averages over seeds."""
    for label, (optimizer, settings) in CASES.items():
        toy = train(below, table(), MLP(width=4), optimizer, **settings)
        yield from _against_torch(f"mlp, {label}", toy)
    plain_net = train(below, table(), MLP(width=4))  # its batches of one instance become empty
    yield from _against_torch("mlp, divided by the surviving weight", plain_net, renormalise=True)
    yield from _against_torch("regression mlp", train(below, table("regression"), MLP(width=4, activation="gelu")))
    for label in ("momentum, weight decay", "adam, clipping"):
        optimizer, settings = CASES[label]
        toy = train(below, images(), CNN(channels=[3], hidden=4, norm="group"), optimizer, epochs=2, **settings)
        yield from _against_torch(f"cnn, {label}", toy)
    # without the removed instance in the batch statistics
    net = ResNet9(norm="batch", width=1 / 32)
    yield from _against_torch("batch norm", train(below, images(6), net, epochs=2, batch_size=3))
    yield from _ridge(below)
    yield from _seeds(below)


def _ridge(below: Path) -> Iterator[Comparison]:
    """Ridge regression trained to its optimum against normal equations without the instance."""
    toy = converged(below, bundled("diabetes", 20, 4), Linear(), 0.1)
    x, x_test = plain.with_ones(toy.train.x), plain.with_ones(toy.test.x)
    y, y_test, n = toy.train.y.astype(np.float64), toy.test.y.astype(np.float64), len(toy.train)

    def risk(weights: Array, divisor: float) -> Array:
        return np.asarray(0.5 * (x_test @ plain.ridge(x, y, weights, 0.1, divisor) - y_test) ** 2)

    for renormalise in (False, True):
        rows = [risk(1 - unit, n - 1 if renormalise else n) - risk(np.ones(n), n) for unit in np.eye(n)]
        found = toy.estimate("loo", ceiling_budget=0, renormalise=renormalise).values
        yield compare(f"ridge in closed form, renormalise={str(renormalise).lower()}", found, np.stack(rows), 1e-8)


def _seeds(below: Path) -> Iterator[Comparison]:
    """Mean and standard error over seeds, the first being the trained model's own."""
    toy = train(below, table(), MLP(width=4))
    found = toy.estimate("loo", seeds=3)
    assert found.stderr is not None
    own = toy.estimate("loo", ceiling_budget=0).values
    parts = np.stack(found.replicates)
    yield compare("the first seed is the trained model's own", parts[0], own, 0.0)
    yield compare("mean over seeds", found.values, (parts[0] + parts[1] + parts[2]) / 3, 1e-12)
    deviation = np.sqrt(((parts - found.values) ** 2).sum(axis=0) / 2)
    yield compare("standard error over seeds", found.stderr, deviation / np.sqrt(3), 1e-12)


ORACLES = {"loo": loo, **sampled.ORACLES, **averaged.ORACLES, **simulated.ORACLES}
