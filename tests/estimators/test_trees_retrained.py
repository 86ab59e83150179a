"""Retraining, games and neighbours on trees: the same numbers by hand, from scikit-learn itself."""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from influx.engines.permutations import drawn
from influx.oracles.toys import Toy, estimator_named, learned
from influx.run import Run
from tests.models.test_trees import learner, make

Array = NDArray[np.float64]
TREES, N, K = 4, 9, 2  # rounds, training instances, neighbours
SETTINGS = {"min_samples_leaf": 2, "learning_rate": 0.5}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    model = learner("hist_gradient_boosting", rounds=TREES, **SETTINGS)
    return learned(tmp_path_factory.mktemp("toy"), make(0, n=N, m=4), model)


def risks(toy: Toy, rows: NDArray[np.int64]) -> tuple[Array, Array]:
    """Risk of training (n,) and test instances (m,) of the library's model trained on ``rows``."""
    x, y = toy.train.x[rows], toy.train.y[rows].astype(np.float64)
    if len(np.unique(y)) > 1:
        says = HistGradientBoostingRegressor(max_iter=TREES, early_stopping=False, **SETTINGS).fit(x, y).predict
    else:

        def says(x: Any) -> Array:
            return np.full(len(x), y[0] if len(y) else 0.0)

    train, test = (0.5 * (says(split.x) - split.y) ** 2 for split in (toy.train, toy.test))
    return train, test


def of_samples(toy: Toy, weights: NDArray[Any]) -> tuple[Array, Array]:
    """Mean test risk without less that with each instance (n, m), and mean risk on itself without it (n,)."""
    made = [risks(toy, np.repeat(np.arange(N), row)) for row in weights]
    own, test = np.array([train for train, _ in made]), np.array([test for _, test in made])
    inside = weights > 0
    values = np.array([test[~held].mean(0) - test[held].mean(0) for held in inside.T])
    return values, np.array([own[~held, i].mean() for i, held in enumerate(inside.T)])


def sampled(toy: Toy, estimator: Any, run: Run) -> Array:
    design = estimator.design(run)
    return of_samples(toy, (design[0] if isinstance(design, tuple) else design).weights)[0]


def removed(toy: Toy, estimator: Any, run: Run) -> Array:
    whole = risks(toy, np.arange(N))[1]
    return np.array([risks(toy, np.delete(np.arange(N), i))[1] - whole for i in range(N)])


def permuted(toy: Toy, estimator: Any, run: Run) -> Array:
    orders = drawn(toy.train.ids, estimator.permutations, estimator.antithetic, run.drawn("permutations"))
    values = np.zeros((N, len(toy.test)))
    for order in orders:
        steps = np.array([risks(toy, order[:size])[1] for size in range(N + 1)])
        values[order] += (steps[:-1] - steps[1:]) / len(orders)
    return values


def of_neighbours(toy: Toy) -> Array:
    """``(2^n, m)`` utility of every set of instances, a bit each, for the K of them that share most leaves."""
    train, test = (toy.fitted.leaves(split)[:, 0] for split in (toy.train, toy.test))  # (T, n), (T, m)
    order = np.argsort((train[:, :, None] != test[:, None, :]).sum(0), axis=0, kind="stable")
    y, found = toy.train.y.astype(np.float64), np.empty((2**N, len(toy.test)))
    for members in range(2**N):
        for j, aim in enumerate(toy.test.y):
            near = [y[i] for i in order[:, j] if members >> int(i) & 1][:K]
            found[members, j] = -((sum(near) / K - aim) ** 2)
    return found


def gained(toy: Toy, weigh: Callable[[int], float]) -> Array:
    """Gains by each instance over sets of the others, weighed by their sizes."""
    utility = of_neighbours(toy)
    return np.array(
        [
            sum(weigh(s.bit_count()) * (utility[s | 1 << i] - utility[s]) for s in range(2**N) if not s >> i & 1)
            for i in range(N)
        ]
    )


def knn_shapley(toy: Toy, estimator: Any, run: Run) -> Array:
    return gained(toy, lambda size: 1 / (N * comb(N - 1, size)))


def knn_loo(toy: Toy, estimator: Any, run: Run) -> Array:
    return gained(toy, lambda size: float(size == N - 1))


BY_HAND: dict[str, tuple[Callable[[Toy, Any, Run], Array], dict[str, Any]]] = {
    "loo": (removed, {}),
    "downsampling": (sampled, {"models": 20}),
    "data_oob": (sampled, {"models": 20}),
    "banzhaf": (sampled, {"models": 20}),
    "tmc_shapley": (permuted, {"permutations": 4, "truncation": 0.0}),
    "knn_shapley": (knn_shapley, {"k": K}),
    "knn_loo": (knn_loo, {"k": K}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_estimators_of_other_families_say_of_trees_what_the_library_says(name: str, toy: Toy) -> None:
    by_hand, settings = BY_HAND[name]
    estimator = estimator_named(name, settings)
    run = toy.run(estimator, name)
    found, expected = estimator.estimate(run), by_hand(toy, estimator, run)
    assert np.abs(expected).max() > 0.05
    assert found.values == pytest.approx(expected, abs=1e-6)
    if name == "data_oob":
        alone = of_samples(toy, estimator.design(run).weights)[1]  # type: ignore[attr-defined]
        assert found.tables["data_oob"]["value"].to_numpy() == pytest.approx(-alone, abs=1e-6)
    if name == "tmc_shapley":  # what the permutations add up to, whatever they are
        start, end = risks(toy, np.arange(0))[1], risks(toy, np.arange(N))[1]
        assert found.values.sum(0) == pytest.approx(start - end, abs=1e-6)
