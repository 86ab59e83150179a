"""Complexity gap, by deleting every instance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train


def complexity(x: Array, y: Array, jitter: float) -> float:
    """Labels ±1 against the kernel of a wide network, one pair of inputs after the other."""
    h = np.empty((len(x), len(x)))
    for i in range(len(x)):
        for j in range(len(x)):
            cosine = float(x[i] @ x[j] / np.sqrt((x[i] @ x[i]) * (x[j] @ x[j])))
            angle = 0.0 if i == j else float(np.arccos(np.clip(cosine, -1, 1)))
            h[i, j] = np.cos(angle) * (np.pi - angle) / (2 * np.pi) + jitter * (i == j)
    return float(y @ np.linalg.solve(h, y))


def _expected(toy: Toy, x: Array, jitter: float) -> Array:
    """For two classes of one size there is nothing to draw."""
    y, found = toy.train.y, np.zeros(len(toy.train))
    for i in range(len(y)):
        signs = np.where(y == y[i], 1.0, -1.0)
        kept = np.arange(len(y)) != i
        found[i] = complexity(x, signs, jitter) - complexity(x[kept], signs[kept], jitter)
    return found


def complexity_gap(below: Path) -> Iterator[Comparison]:
    """All n deletions, with two classes of one size."""
    data = table(n_train=18)
    rows = np.flatnonzero(data.train.y < 2)
    toy = train(below, replace(data, train=data.train.take(rows)), MLP(width=5))
    raw = toy.train.x.astype(np.float64)
    for features, x in (("raw", raw), ("penultimate", plain.features(toy.module(), toy.tensors(toy.train)[0]))):
        for jitter in (1e-6, 1e-2):
            found = toy.estimate("complexity_gap", features=features, jitter=jitter)
            assert found.self_influence is not None
            expected = _expected(toy, x, jitter)
            told = f"all deletions, {features}, jitter {jitter:g}"
            yield compare(told, found.values, -np.repeat(expected[:, None], len(toy.test), axis=1), 1e-9)
            yield compare(f"{told}, on itself", found.self_influence, expected, 1e-9)
    three = train(below, data, MLP(width=5))
    found = three.estimate("complexity_gap", unbalance=2.0)  # all others take part
    assert found.self_influence is not None
    expected = _expected(three, three.train.x.astype(np.float64), 1e-6)
    yield compare("all deletions, three classes, all others", found.self_influence, expected, 1e-9)


ORACLES: dict[str, Oracle] = {"complexity_gap": complexity_gap}
