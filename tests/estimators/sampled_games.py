"""Runs whose models are coalitions in a game: estimators see risks of subsets without any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from influx.influence import Influence
from influx.oracles import toys
from influx.oracles.toys import estimator_named

Array = NDArray[np.float64]
SEEDS = 60  # of training
Game = Callable[[Array], Array]  # weights (models, n) -> risks (models, columns)


def run_of(game: Game, n: int, seed: int, between: float = 0.0) -> Any:
    """What a sampled estimator touches of a run; each ``seed`` draws other subsets.

    Seeds of training have effects and levels of their own, with a standard deviation of ``between`` around the game's.
    """
    m = game(np.ones((1, n))).shape[1]
    data, rng = toys.table(n_train=n, n_test=m), np.random.default_rng([seed, 1])
    effects, levels = between * rng.normal(size=(SEEDS, n, m)), between * rng.normal(size=(SEEDS, m))

    def parts(design: Any, label: str) -> Iterator[tuple[NDArray[np.int64], Any, Any]]:
        inside = (design.weights > 0).astype(float)
        risks = game(inside)
        if between:
            risks = risks + levels[design.init] - np.einsum("kn,knm->km", inside, effects[design.init])
        train = np.repeat(risks[:, :1], n, axis=1)
        yield np.arange(len(design)), SimpleNamespace(loss=train), SimpleNamespace(loss=risks)

    def drawn(what: str) -> np.random.Generator:
        return np.random.default_rng([seed, *what.encode()])

    return SimpleNamespace(
        train=data.train, test=data.test, problem=SimpleNamespace(data=data, learner=None),
        retrain=SimpleNamespace(parts=parts), zeros=lambda: np.zeros((n, m)),
        influence=lambda values, **fields: Influence(values=values, **fields),
        rng=drawn, drawn=drawn, warn=lambda sentence: None,
    )  # fmt: skip


def coverage(
    name: str, game: Game, exact: Array, repetitions: int, between: float = 0.0, **settings: Any
) -> tuple[float, float]:
    """Shares of 95% intervals that hold the exact values (n, columns), pointwise and joint, over draws of all models.

    Seeds are drawn, too, where they differ.
    """
    estimator: Any = estimator_named(name, {"target": "loss", **settings})
    hits, joint_hits = [], []
    for seed in range(repetitions):
        found = estimator.estimate(run_of(game, len(exact), seed, between))
        joint, reach = found.tables["joint"], reach_of(found.report)
        hits.append(np.abs(found.values - exact) <= reach * found.stderr)
        error = joint["stderr" if "stderr" in joint else "stderr_design"]
        joint_hits.append(np.abs(joint["influence"] - exact.mean(axis=1)) <= reach * error)
    return float(np.mean(hits)), float(np.mean(joint_hits))


def reach_of(report: Mapping[str, Any]) -> float:
    """Standard errors in half of a 95% interval."""
    degrees = report.get("stderr_degrees")
    return 1.959964 if degrees is None else float(student.ppf(0.975, degrees))
