"""Runs whose models are coalitions in a game: estimators see risks of subsets without any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.influence import Influence
from influx.oracles import toys
from influx.oracles.toys import estimator_named

Array = NDArray[np.float64]
Game = Callable[[Array], Array]  # weights (models, n) -> risks (models, columns)


def run_of(game: Game, n: int, seed: int) -> Any:
    """What a sampled estimator touches of a run; each seed draws other subsets."""
    m = game(np.ones((1, n))).shape[1]
    data = toys.table(n_train=n, n_test=m)

    def parts(design: Any, label: str) -> Iterator[tuple[NDArray[np.int64], Any, Any]]:
        risks = game((design.weights > 0).astype(float))
        train = np.repeat(risks[:, :1], n, axis=1)
        yield np.arange(len(design)), SimpleNamespace(loss=train), SimpleNamespace(loss=risks)

    def drawn(what: str) -> np.random.Generator:
        return np.random.default_rng([seed, *what.encode()])

    return SimpleNamespace(
        train=data.train, test=data.test, problem=SimpleNamespace(data=data), retrain=SimpleNamespace(parts=parts),
        zeros=lambda: np.zeros((n, m)), influence=lambda values, **fields: Influence(values=values, **fields),
        rng=drawn, drawn=drawn, warn=lambda sentence: None,
    )  # fmt: skip


def coverage(name: str, game: Game, exact: Array, repetitions: int, **settings: Any) -> float:
    """Share of 95% intervals that hold the exact values (n, columns), over repeated draws of all models."""
    estimator: Any = estimator_named(name, {"target": "loss", **settings})
    hits = []
    for seed in range(repetitions):
        found = estimator.estimate(run_of(game, len(exact), seed))
        hits.append(np.abs(found.values - exact) <= 1.959964 * found.stderr)
    return float(np.mean(hits))
