"""Models trained one at a time with torch on weighted training sets, and the random subsets that estimators draw."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from influx.learners.torch.optimizers import SGD
from influx.oracles import plain
from influx.oracles.plain import Array
from influx.oracles.toys import Toy
from influx.streams import stream


def trained(toy: Toy, weights: NDArray[Any], subset: bool = True) -> tuple[Array, Array]:
    """Losses on test (m,) and train (n,) of a model trained with ``weights`` (n,) in the recorded batches.

    ``subset`` divides a batch by its weight, otherwise by its size.
    """
    optimizer = toy.learner.optimizer
    assert isinstance(optimizer, SGD) and optimizer.decay_on == "all" and not optimizer.nesterov
    module, record = toy.module(0).train(), toy.trajectory()
    steps = torch.optim.SGD(
        module.parameters(), lr=1.0, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay
    )
    x, y = toy.tensors(toy.train)
    weight = torch.from_numpy(np.asarray(weights, np.float64))
    row_of = {int(identity): row for row, identity in enumerate(toy.train.ids)}
    for step, lr in enumerate(record["lr"][:, 0]):
        batch = record["batch_ids"][record["batch_offsets"][step] : record["batch_offsets"][step + 1]]
        rows = [row_of[int(identity)] for identity in batch]
        total = float(weight[rows].sum())
        steps.param_groups[0]["lr"] = float(lr)
        steps.zero_grad()
        risk = (weight[rows] * plain.risks(toy.task, module(x[rows]), y[rows])).sum()
        (risk / ((total or 1.0) if subset else len(rows))).backward()
        steps.step()
    module.eval()
    return plain.losses(toy, module, toy.test), plain.losses(toy, module, toy.train)


def outcomes(toy: Toy, designs: Iterable[NDArray[Any]], subset: bool = True) -> tuple[Array, Array]:
    """Losses on test (models, m) and train (models, n), model after model."""
    pairs = [trained(toy, weights, subset) for weights in designs]
    return np.stack([test for test, _ in pairs]), np.stack([train for _, train in pairs])


def of_sizes(toy: Toy, purpose: str, sizes: Iterable[int]) -> NDArray[np.int64]:
    """Subsets of given sizes (models, n): the first of a random order. Ids of toys are ascending."""
    rng, n = stream(toy.problem.seed, purpose), len(toy.train)
    return np.stack([np.isin(np.arange(n), rng.permutation(n)[:size]) for size in sizes]).astype(np.int64)


def by_chance(toy: Toy, purpose: str, chances: Iterable[float]) -> NDArray[np.int64]:
    """Subsets that hold every instance with the chance of their row (models, n)."""
    rng, n = stream(toy.problem.seed, purpose), len(toy.train)
    return np.stack([rng.random(n) < chance for chance in chances]).astype(np.int64)


def drawn(toy: Toy, purpose: str, models: int) -> NDArray[np.int64]:
    """Bootstrap samples (models, n): how often each instance is drawn."""
    rng, n = stream(toy.problem.seed, purpose), len(toy.train)
    samples = [rng.integers(n, size=n).tolist() for _ in range(models)]
    return np.array([[sample.count(i) for i in range(n)] for sample in samples])


def gap(masks: NDArray[Any], risks: Array) -> tuple[Array, Array]:
    """Mean risk without minus with each instance (n, c), and Welch's standard error, cell by cell."""
    value = np.empty((masks.shape[1], risks.shape[1]))
    error = np.empty_like(value)
    for i, j in np.ndindex(value.shape):
        inside, outside = risks[masks[:, i] > 0, j], risks[masks[:, i] == 0, j]
        value[i, j] = outside.mean() - inside.mean()
        error[i, j] = np.sqrt(outside.var(ddof=1) / len(outside) + inside.var(ddof=1) / len(inside))
    return value, error


def regression(masks: NDArray[Any], risk: Array) -> tuple[Array, Array]:
    """Minus the slopes (n,) of a risk (models,) on membership, and HC3 standard errors by the full sandwich."""
    x = np.column_stack([np.ones(len(masks)), masks])
    bread = np.linalg.pinv(x.T @ x)
    slopes = bread @ x.T @ risk
    hat = np.diag(x @ bread @ x.T)
    meat = x.T @ np.diag(((risk - x @ slopes) / (1 - hat)) ** 2) @ x
    return -slopes[1:], np.sqrt(np.diag(bread @ meat @ bread))[1:]


def lasso(x: Array, y: Array, penalty: float) -> Array:
    """Minimiser of |y - x b|² / (2 models) + penalty |b|₁ by coordinate descent."""
    count, slopes = len(x), np.zeros(x.shape[1])
    for _ in range(2000):
        before = slopes.copy()
        for i in range(x.shape[1]):
            rest = y - x @ slopes + x[:, i] * slopes[i]
            pull = x[:, i] @ rest / count
            slopes[i] = np.sign(pull) * max(abs(pull) - penalty, 0) / (x[:, i] @ x[:, i] / count)
        if np.abs(slopes - before).max() < 1e-13:
            break
    return slopes
