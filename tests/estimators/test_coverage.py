"""95% intervals hold the exact value in 92 to 98 % of repeated draws of all models, on games that are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from influx.oracles.toys import estimator_named
from tests.estimators.sampled_games import Game, coverage, run_of

Array = NDArray[np.float64]
N = 9
EVERY = (np.arange(2**N)[:, None] >> np.arange(N)) & 1
SIZES = EVERY.sum(axis=1)
EFFECTS = np.random.default_rng(0).normal(size=(40, 3)) * (np.random.default_rng(1).random((40, 3)) < 0.5)
REPETITIONS = 40


def additive(masks: Array) -> Array:
    return 2 - masks @ EFFECTS


def small_additive(masks: Array) -> Array:
    return 2 - masks @ EFFECTS[:N]


def rough(masks: Array) -> Array:
    """Interactions as large as a tenth of the additive part."""
    return additive(masks) + 0.3 * np.sin(7 * masks @ EFFECTS[::-1])


def table() -> Array:
    rng = np.random.default_rng(0)
    return 2 - EVERY @ rng.normal(size=(N, 3)) + 0.5 * rng.normal(size=(2**N, 3))


def by_table(masks: Array) -> Array:
    return table()[masks.astype(int) @ (1 << np.arange(N))]


def mean_effects(chance: Callable[[NDArray[np.int64]], Array]) -> Array:
    """Mean fall of the risk when an instance joins a set of the others, which has the chance of its size."""
    risks, found = table(), np.empty((N, 3))
    for i in range(N):
        without = np.flatnonzero(EVERY[:, i] == 0)
        weight = chance(SIZES[without])
        found[i] = weight @ (risks[without] - risks[without + (1 << i)]) / weight.sum()
    return found


def at(p: float) -> Array:
    return mean_effects(lambda size: p**size * (1 - p) ** (N - 1 - size))


RELATIVE = EFFECTS - (EFFECTS.sum(axis=0) - EFFECTS) / 39
SMALL_RELATIVE = EFFECTS[:N] - (EFFECTS[:N].sum(axis=0) - EFFECTS[:N]) / (N - 1)
AME = np.mean([at(p) for p in (0.2, 0.4, 0.6, 0.8)], axis=0)
CASES: list[tuple[str, Game, Array, dict[str, Any]]] = [
    ("ame", additive, EFFECTS, {}),
    ("ame", by_table, AME, {}),
    ("ame", by_table, AME, {"post_ols": False, "p_dummies": False}),
    ("ame", by_table, AME, {"rule": "ipw"}),
    ("ame", by_table, AME, {"models": 200}),
    ("datamodels", additive, EFFECTS, {}),
    ("datamodels", by_table, at(0.5), {}),
    ("datamodels", by_table, at(0.3), {"alpha": 0.3, "models": 100}),
    ("datamodels", additive, EFFECTS, {"models": 60}),
    ("banzhaf", additive, EFFECTS, {}),
    ("banzhaf", by_table, at(0.5), {"rule": "ols"}),
    ("downsampling", by_table, at(0.7), {"sampling": "bernoulli"}),
    ("downsampling", by_table, mean_effects(lambda size: (size == 5) * 1.0), {"sampling": "paired_sizes"}),
    ("downsampling", additive, RELATIVE, {}),
    ("c_score", additive, RELATIVE, {}),
    ("c_score", additive, RELATIVE, {"runs": 12}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "game", "exact", "settings"), CASES)
def test_intervals_hold_the_exact_value(name: str, game: Game, exact: Array, settings: dict[str, Any]) -> None:
    assert 0.92 <= coverage(name, game, exact, REPETITIONS, **settings)[0] <= 0.98


@pytest.mark.parametrize(
    ("name", "settings", "exact"),
    [
        ("downsampling", {"sampling": "bernoulli", "models": 100}, at(0.7)),
        ("downsampling", {"sampling": "fixed_size", "fraction": 5 / 9, "models": 100}, None),
        ("banzhaf", {"models": 100}, at(0.5)),
    ],
)
def test_intervals_of_memorization_hold_the_exact_value(
    name: str, settings: dict[str, Any], exact: Array | None
) -> None:
    if exact is None:  # relative to the mean of the others: over all subsets of 5
        rows = EVERY[SIZES == 5] > 0
        risks = table()[SIZES == 5]
        exact = np.stack([risks[~inside].mean(axis=0) - risks[inside].mean(axis=0) for inside in rows.T])
    estimator: Any = estimator_named(name, {"target": "loss", **settings})
    hits = []
    for seed in range(200):
        found = estimator.estimate(run_of(by_table, N, seed)).tables["memorization"]
        hits.append(np.abs(found["influence"] - exact[:, 0]) <= 1.959964 * found["stderr"])  # the risk on itself
    assert 0.92 <= np.mean(hits) <= 0.98


SEEDED: list[tuple[str, Game, Array, dict[str, Any]]] = [
    ("banzhaf", by_table, at(0.5), {"models": 120}),
    ("downsampling", by_table, at(0.7), {"sampling": "bernoulli", "models": 120}),
    ("downsampling", by_table, mean_effects(lambda size: (size == 5) * 1.0), {"sampling": "paired_sizes"}),
    ("ame", by_table, AME, {"rule": "ipw", "models": 240}),
    ("c_score", small_additive, SMALL_RELATIVE, {"runs": 40, "sizes": [0.3, 0.5, 0.7]}),
    ("data_oob", small_additive, SMALL_RELATIVE, {"models": 120}),
]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 15])
@pytest.mark.parametrize(("name", "game", "exact", "settings"), SEEDED)
def test_intervals_hold_the_mean_over_seeds_that_differ(
    name: str, game: Game, exact: Array, settings: dict[str, Any], seeds: int
) -> None:
    shares = coverage(name, game, exact, 400, between=0.5, seeds=seeds, **settings)
    assert all(0.92 <= share <= 0.98 for share in shares), shares


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_to_tell_do_not(seeds: int) -> None:
    assert coverage("banzhaf", by_table, at(0.5), 40, between=0.5, seeds=seeds, models=120)[0] < 0.8


@pytest.mark.parametrize("name", ["ame", "datamodels"])
def test_without_the_correction_they_do_not(name: str) -> None:
    exact = AME if name == "ame" else at(0.5)
    assert coverage(name, by_table, exact, 10, debias=False)[0] < 0.92
