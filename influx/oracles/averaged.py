"""Averages over trainings that are done one by one, and over trainings that end early."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train
from influx.streams import stream_seed


def _toy(below: Path, seed: int = 0, epochs: int = 4, **settings: object) -> Toy:
    return train(below, table(), MLP(width=3), SGD(lr=0.2), seed=seed, epochs=epochs, **settings)


def averaged(below: Path) -> Iterator[Comparison]:
    """Trainings with the seeds of the others; trainings that stop where a checkpoint is."""
    others = [_toy(below, stream_seed(0, f"training/{number}")) for number in (1, 2)]
    for name in ("tracincp", "gas", "loo"):
        found = [toy.estimate(name) for toy in (_toy(below), *others)]
        mean = _toy(below).estimate("averaged", of=name, count=3)
        yield from _alike(f"{name}, three trainings one by one", mean, found)
    for settings in ({"damping": 0.5}, {"damping": 3.0, "curvature": "hessian"}):
        found = [_toy(below, epochs=epochs, checkpoints=1).estimate("if_exact", **settings) for epochs in (2, 4)]
        mean = _toy(below, checkpoints=4).estimate(
            "averaged", of="if_exact", settings=settings, over="checkpoints", count=2
        )
        yield from _alike(f"if_exact, {settings}, trainings that end at checkpoints", mean, found)


def _alike(told: str, mean: Influence, found: list[Influence]) -> Iterator[Comparison]:
    values, count = np.stack([each.values for each in found]), len(found)
    yield compare(f"mean, {told}", mean.values, values.mean(axis=0), 1e-12)
    table, deviation = mean.tables["averaged"], values.std(axis=0, ddof=1)
    yield compare(f"spread, {told}", table["spread"].to_numpy(), np.sqrt(np.square(deviation).mean(axis=0)), 1e-10)
    yield compare(f"size, {told}", table["size"].to_numpy(), np.sqrt(np.square(mean.values).mean(axis=0)), 1e-12)
    if mean.report["over"] == "seeds":
        assert mean.stderr is not None
        yield compare(f"standard error, {told}", mean.stderr, deviation / np.sqrt(count), 1e-10)
    if found[0].self_influence is not None:
        own = np.mean([_own(each) for each in found], axis=0)
        yield compare(f"mean on itself, {told}", _own(mean), own, 1e-12)
    pairs = [
        np.mean([spearmanr(a[:, j], b[:, j]).statistic for a, b in combinations(values, 2)])
        for j in range(values.shape[2])
    ]
    yield compare(f"rank correlation of two, {told}", mean.report["rank_stability"], np.mean(pairs), 1e-12)


def _own(found: Influence) -> Array:
    assert found.self_influence is not None
    return np.asarray(found.self_influence, np.float64)


ORACLES: dict[str, Oracle] = {"averaged": averaged}
