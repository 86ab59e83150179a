"""Sums over checkpoints by loops over checkpoints and instances: what the oracles of the trajectory family share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from torch import nn

from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.oracles import plain
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, images, table, train

LOOP = 1e-10  # float64 sums in another order
RATES = ("next", "prev", "segment_mean")
SETTINGS = list(product(RATES, ("paper", "calibrated", "uniform")))
Pair = Callable[[Array, Array], float]  # compares two gradients
PairAt = Callable[[nn.Module, int], Pair]  # the same for a checkpoint's module and step


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

    With ``lr_at=prev`` the first after it, or else the last of all.
    """
    if lr_at == "prev":
        return min((c for c in kept if c > step), default=kept[-1])
    return max((c for c in kept if c <= step), default=kept[0])


def dot(g: Array, h: Array) -> float:
    """⟨g, h⟩."""
    return float(g @ h)


def cosine(g: Array, h: Array) -> float:
    """⟨g, h⟩ / |g| |h|, and 0 where a gradient is."""
    norms = float(np.linalg.norm(g) * np.linalg.norm(h))
    return float(g @ h) / norms if norms else 0.0


def contributions(toy: Toy, weights: dict[int, float], pair: PairAt, head: bool = False) -> tuple[Array, Array]:
    """What each checkpoint adds for test instances (C, n_train, n_test) and for instances themselves (C, n_train)."""
    values, own = np.zeros((len(weights), len(toy.train), len(toy.test))), np.zeros((len(weights), len(toy.train)))
    for c, (step, weight) in enumerate(weights.items()):
        module = toy.module(step)
        compared = pair(module, step)
        only = list(module.parameters())[-2:] if head else None
        mine, theirs = (plain.gradients(toy, module, split, only) for split in (toy.train, toy.test))
        for i, g in enumerate(mine):
            for j, h in enumerate(theirs):
                values[c, i, j] = weight * compared(g, h)
            own[c, i] = weight * compared(g, g)
    return values, own


def loss_drops(toy: Toy, count: int, lr_at: str = "next") -> list[int]:
    """Steps of the ``count`` checkpoints that begin (or end, for prev) the largest falls of the mean test loss."""
    losses = [(step, float(plain.losses(toy, toy.module(step), toy.test).mean())) for step in toy.steps()]
    falls = [(before[1] - after[1], after[0] if lr_at == "prev" else before[0]) for before, after in pairwise(losses)]
    return sorted(step for _, step in sorted(falls, reverse=True)[:count])


def left_out(values: Array) -> Array:
    """Jackknife standard error of Σ_c of ``(C, n, m)``: the sum without each c, scaled up to C terms."""
    count = len(values)
    without = np.stack([np.delete(values, c, 0).sum(0) * count / (count - 1) for c in range(count)])
    return np.asarray(np.sqrt((count - 1) / count * ((without - without.mean(0)) ** 2).sum(0)))
