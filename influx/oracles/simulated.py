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


def _recorded(toy: Toy, order: int) -> tuple[list[list[int]], Array]:
    """Batches of a training with another order, and the test losses before every step and at the end."""
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


def _fit(toy: Toy, runs: list[tuple[list[list[int]], Array]], column: int) -> tuple[Array, Array]:
    """α and β of one test instance, by normal equations."""
    n, rows, targets = len(toy.train), [], []
    for steps, losses in runs:
        for step, batch in enumerate(steps):
            seen = np.zeros(n)
            seen[batch] = _weight(toy, batch, step)
            rows.append(np.concatenate([seen * losses[step, column], seen]))
            targets.append(losses[step + 1, column] - losses[step, column])
    a, b = np.stack(rows), np.array(targets)
    found = np.linalg.solve(a.T @ a + RIDGE * np.eye(2 * n), a.T @ b)
    return found[:n], found[n:]


def _simulated(toy: Toy, steps: list[list[int]], loss: float, alpha: Array, beta: Array, removed: int = -1) -> float:
    for step, batch in enumerate(steps):
        w, kept = _weight(toy, batch, step), [row for row in batch if row != removed]
        loss = loss + sum(w * (alpha[row] * loss + beta[row]) for row in kept)
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


ORACLES: dict[str, Oracle] = {"simfluence": simfluence}
