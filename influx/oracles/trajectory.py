"""Gradient similarity along the trajectory, by loops over checkpoints and instances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from influx.learners.torch.optimizers import SGD
from influx.learners.torch.tasks import Task
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.oracles import plain
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, images, table, train

LOOP = 1e-10  # float64 sums in another order
RATES = ("next", "prev", "segment_mean")
SETTINGS = list(product(RATES, ("paper", "calibrated", "uniform")))


def toys(below: Path) -> Iterator[tuple[str, Toy]]:
    """One net per kind of layer."""
    yield "mlp", train(below, table(), MLP(width=5), schedule="cosine", warmup_steps=2)
    yield "regression mlp", train(below, table("regression"), MLP(width=5))
    yield "cnn with group norm", train(below, images(), CNN(channels=[4], hidden=5, norm="group"))
    yield "residual net with batch norm", train(below, images(), ResNet9(norm="batch", width=1 / 32), checkpoints=2)


def checkpoint_weights(
    toy: Toy, lr_at: str = "next", weight: str = "paper", kept: list[int] | None = None
) -> dict[int, float]:
    """Step → weight of the ``kept`` checkpoints (default: all usable), from the recorded learning rates."""
    rates, n = toy.trajectory()["lr"][:, 0], len(toy.train)
    kept = kept or (toy.steps()[1:] if lr_at == "prev" else toy.steps()[:-1])
    if weight == "uniform":
        return dict.fromkeys(kept, 1.0)
    if weight == "calibrated":
        weights = dict.fromkeys(kept, 0.0)
        for step, rate in enumerate(rates):
            weights[_standing_for(step, lr_at, kept)] += float(rate) / n
        return weights
    if lr_at == "segment_mean":
        return {c: float(rates[c:end].sum() / (end - c)) for c, end in pairwise([*kept, len(rates)])}
    return {c: float(rates[c - 1 if lr_at == "prev" else c]) for c in kept}


def _standing_for(step: int, lr_at: str, kept: list[int]) -> int:
    """The checkpoint whose gradients replace those of a step: the last before it, or else the first of all.

    With ``lr_at=prev`` the first after it.
    """
    if lr_at == "prev":
        return min(c for c in kept if c > step)
    return max((c for c in kept if c <= step), default=kept[0])


def similarity(toy: Toy, weights: dict[int, float], head: bool = False, unit: bool = False) -> tuple[Array, Array]:
    """Σ_c w_c ⟨g_i, g_j⟩ on test ``(n_train, n_test)`` and on itself ``(n_train,)``."""
    values, own = np.zeros((len(toy.train), len(toy.test))), np.zeros(len(toy.train))
    for step, weight in weights.items():
        module = toy.module(step)
        only = list(module.parameters())[-2:] if head else None
        mine, theirs = (plain.gradients(toy, module, split, only) for split in (toy.train, toy.test))
        for i, g in enumerate(mine):
            for j, h in enumerate(theirs):
                values[i, j] += weight * (g @ h / (np.linalg.norm(g) * np.linalg.norm(h)) if unit else g @ h)
            own[i] += weight * (1.0 if unit else g @ g)
    return values, own


def _loops(name: str, below: Path, head: bool = False, unit: bool = False) -> Iterator[Comparison]:
    """The default settings on every net, all settings on the one with a schedule."""
    for kind, toy in toys(below):
        found = toy.estimate(name)
        values, own = similarity(toy, checkpoint_weights(toy), head, unit)
        yield compare(f"autograd loop, {kind}", found.values, values, LOOP)
        yield compare(f"autograd loop on itself, {kind}", _own(found.self_influence), own, LOOP)
    toy = next(toys(below))[1]
    errors = []
    for lr_at, weight in SETTINGS:
        values, _ = similarity(toy, checkpoint_weights(toy, lr_at, weight), head, unit)
        errors.append(compare("", toy.estimate(name, lr_at=lr_at, weight=weight).values, values, LOOP).error)
    yield Comparison("autograd loop, every lr_at and weight under a schedule", max(errors), LOOP)
    first, second, third, last = toy.steps()
    for lr_at in RATES:
        usable = [second, third, last] if lr_at == "prev" else [first, second, third]
        for kept in ([usable[0], usable[2]], [usable[2]]):
            values, _ = similarity(toy, checkpoint_weights(toy, lr_at, "calibrated", kept), head, unit)
            found = toy.estimate(name, lr_at=lr_at, weight="calibrated", checkpoints=len(kept))
            yield compare(f"autograd loop, {len(kept)} of 3 checkpoints, lr_at={lr_at}", found.values, values, LOOP)


def _own(values: object) -> Array:
    assert isinstance(values, np.ndarray)
    return values


def _duplicates(name: str, below: Path) -> Iterator[Comparison]:
    """Equal instances score alike."""
    data = table()
    same = np.array([0, 0, *range(2, len(data.train))])
    split = replace(data.train, x=data.train.x[same], y=data.train.y[same])
    values = train(below, replace(data, train=split), MLP(width=5)).estimate(name).values
    yield compare("equal rows for equal instances", values[0], values[1], 1e-14)


def tracincp(below: Path) -> Iterator[Comparison]:
    """Loops; and summed over training instances, TracIn is the descent of the test risk."""
    yield from _loops("tracincp", below)
    yield from _duplicates("tracincp", below)
    rate = 1e-6
    toy = train(below, table(), MLP(width=5), SGD(lr=rate), batch_size=9, checkpoint_spacing="every")
    before, after = (plain.losses(toy, toy.module(step), toy.test) for step in (0, toy.steps()[-1]))
    for lr_at in RATES:
        total = toy.estimate("tracincp", weight="calibrated", lr_at=lr_at).values.sum(axis=0)
        # the descent itself loses digits to cancellation: 1e-16 / lr
        yield compare(f"sum is the descent of the test risk, lr_at={lr_at}", total, before - after, 1e-4)


def tracin_last(below: Path) -> Iterator[Comparison]:
    """Loops over the head's gradients, and (f_i·f_j + 1)(r_i·r_j)."""
    yield from _loops("tracin_last", below, head=True)
    yield from _duplicates("tracin_last", below)
    toy = train(below, table(), MLP(width=[5, 4]))
    expected = np.zeros((len(toy.train), len(toy.test)))
    for step, weight in checkpoint_weights(toy).items():
        module, parts = toy.module(step), []
        for split in (toy.train, toy.test):
            x, y = toy.tensors(split)
            with torch.no_grad():
                residual = plain.softmax(module(x).numpy()) - np.eye(3)[y]
            parts.append((plain.features(module, x), residual))
        (f_train, r_train), (f_test, r_test) = parts
        expected += weight * (f_train @ f_test.T + 1) * (r_train @ r_test.T)
    yield compare("features times residuals", toy.estimate("tracin_last").values, expected, LOOP)
    linear = train(below, table(), Linear())
    whole, last = (linear.estimate(name).values for name in ("tracincp", "tracin_last"))
    yield compare("tracincp, when the head is all there is", last, whole, 1e-14)


class _Scaled:
    """A task whose risks are all multiplied by one number."""

    def __init__(self, task: Task, factor: float) -> None:
        self.task, self.factor = task, factor

    def output_gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.factor * self.task.output_gradient(outputs, y)


def gas(below: Path) -> Iterator[Comparison]:
    """Loops over cosines, their bound, and what they do not depend on."""
    yield from _loops("gas", below, unit=True)
    yield from _duplicates("gas", below)
    toy = train(below, table(), MLP(width=5))
    values = toy.estimate("gas").values
    total = sum(checkpoint_weights(toy).values())
    yield Comparison("|values| at most the sum of weights (excess)", float(np.abs(values).max() / total - 1), 1e-12)
    recipe = replace(toy.fitted.recipe, task=_Scaled(toy.fitted.task, 1e3))  # type: ignore[arg-type]
    scaled = replace(toy, fitted=replace(toy.fitted, recipe=recipe)).estimate("gas").values
    yield compare("the same after scaling every risk", scaled, values, 1e-13)
    data = table("regression")
    x, y = data.train.x.copy(), data.train.y.copy()
    x[0], y[0] = 0, 0  # without a bias this instance has no gradient anywhere
    still = train(below, replace(data, train=replace(data.train, x=x, y=y)), Linear(bias=False)).estimate("gas")
    row = [*still.values[0], _own(still.self_influence)[0]]
    yield Comparison("0 for an instance without gradient", float(np.abs(row).max()), 0.0)


ORACLES = {"gas": gas, "tracin_last": tracin_last, "tracincp": tracincp}
