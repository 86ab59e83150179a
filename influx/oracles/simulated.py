"""Simfluence, by torch's own optimizer, dense normal equations and a simulation for every removal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train

RIDGE = 0.05
Recorded = tuple[list[list[int]], Array]  # batches, and test losses before every step and at the end


def _recorded(toy: Toy, order: int) -> Recorded:
    """A training with another order."""
    batches = toy.learner.training.batches(len(toy.train), toy.problem.seed, order)
    module, rates = toy.module(0).train(), toy.trajectory()["lr"][:, 0]
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    x, y = toy.tensors(toy.train)
    losses = [plain.losses(toy, module, toy.test)]
    steps = [batches[step].tolist() for step in range(len(batches))]
    for rows, rate in zip(steps, rates, strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        plain.risks(toy.task, module(x[rows]), y[rows]).mean().backward()
        optimizer.step()
        losses.append(plain.losses(toy, module, toy.test))
    return steps, np.stack(losses)


def _weight(toy: Toy, rows: list[int], step: int) -> float:
    rates = toy.trajectory()["lr"][:, 0]
    return float(rates[step] / rates.max() * toy.learner.training.batch_size / len(rows))


def _fit(toy: Toy, runs: list[Recorded], column: int, centred: bool = True) -> tuple[Array, Array]:
    """α and β of one test instance, by normal equations; not ``centred`` for A = α + 1 / |batch| pulled to 0."""
    n, rows, targets = len(toy.train), [], []
    for steps, losses in runs:
        for step, batch in enumerate(steps):
            seen = np.zeros(n)
            seen[batch] = _weight(toy, batch, step)
            rows.append(np.concatenate([seen * losses[step, column], seen]))
            targets.append(losses[step + 1, column] - losses[step, column])
    a, b = np.stack(rows), np.array(targets)
    shift = np.zeros(2 * n)
    if not centred:
        shift[:n] = 1 / toy.learner.training.batch_size
    found = np.linalg.solve(a.T @ a + RIDGE * np.eye(2 * n), a.T @ (b + a @ shift)) - shift
    return found[:n], found[n:]


def _simulated(
    toy: Toy, steps: list[list[int]], loss: float, alpha: Array, beta: Array, removed: int = -1, limit: float = np.inf
) -> float:
    """``limit`` is of the size of a_t."""
    for step, batch in enumerate(steps):
        w, kept = _weight(toy, batch, step), [row for row in batch if row != removed]
        a, b = 1 + sum(w * alpha[row] for row in kept), sum(w * beta[row] for row in kept)
        loss = max(-limit, min(limit, a)) * loss + b
    return loss


def simfluence(below: Path) -> Iterator[Comparison]:
    """A net trained in several orders, under a schedule; the last batch of an epoch is smaller."""
    for kind, data in (("classes", table()), ("regression", table("regression"))):
        toy = train(below, data, MLP(width=3), SGD(lr=0.2), schedule="cosine", epochs=4)
        runs = [_recorded(toy, order) for order in range(4)]
        found = toy.estimate("simfluence", runs=4, held_out=1, ridge=RIDGE)
        values, errors = np.zeros(found.values.shape), np.zeros(len(toy.test))
        for j in range(len(toy.test)):
            alpha, beta = _fit(toy, runs[:3], j)
            steps, losses = runs[0]
            whole = _simulated(toy, steps, losses[0, j], alpha, beta)
            for i in range(len(toy.train)):
                values[i, j] = _simulated(toy, steps, losses[0, j], alpha, beta, i) - whole
            steps, losses = runs[3]
            path = [_simulated(toy, steps[:t], losses[0, j], alpha, beta) for t in range(len(steps) + 1)]
            errors[j] = np.abs(np.array(path) - losses[:, j]).mean()
        yield compare(f"normal equations and simulated removals, {kind}", found.values, values, 1e-8)
        mae = found.tables["simfluence"]["mae_held_out"].to_numpy()
        yield compare(f"error on a training that was held out, {kind}", mae, errors, 1e-8)
        if kind == "classes":
            yield from _options(toy, runs)


def _options(toy: Toy, runs: list[Recorded]) -> Iterator[Comparison]:
    """Other pulls, limits and effects."""
    shape, (steps, losses) = (len(toy.train), len(toy.test)), runs[0]
    clipped, uncentred, first = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for j, start in enumerate(losses[0]):
        for centred, limit, into in ((True, 1.0, clipped), (False, np.inf, uncentred)):
            alpha, beta = _fit(toy, runs[:3], j, centred)
            into[:, j] = [_simulated(toy, steps, start, alpha, beta, i, limit) for i in range(len(toy.train))]
            into[:, j] -= _simulated(toy, steps, start, alpha, beta, limit=limit)
        beta = _fit(toy, runs[:3], j)[1]
        for step, batch in enumerate(steps):
            first[batch, j] -= _weight(toy, batch, step) * beta[batch]
    told: dict[str, tuple[dict[str, object], Array]] = {
        "a_t within [-1, 1]": ({"clip": True}, clipped),
        "A pulled to 0": ({"center_A": False}, uncentred),
        "of first order": ({"effect": "first_order"}, first),
    }
    for name, (settings, expected) in told.items():
        found = toy.estimate("simfluence", runs=4, held_out=1, ridge=RIDGE, **settings)
        yield compare(name, found.values, expected, 1e-8)


ORACLES: dict[str, Oracle] = {"simfluence": simfluence}
