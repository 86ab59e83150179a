"""Shapley values of the nearest-neighbour surrogate: the equations of the survey, corrected, and the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from influx.engines.neighbour_games import Coalitions, knn_shapley
from influx.errors import ConfigError, IncompatibleError
from influx.models.mlp import MLP
from influx.needs import Need
from influx.oracles import neighbours as plain
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.problem import Split
from influx.run import refuse_missing

LABELS = [0, 1, 1, 0, 2, 1]  # nearest first


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=5))


def line(labels: list[int], k: int, target: int = 1) -> np.ndarray:
    """Values of instances at distances 1, 2, … from the test instance."""
    train = Split(x=np.arange(1.0, len(labels) + 1)[:, None], y=np.array(labels), ids=np.arange(len(labels)))
    test = Split(x=np.zeros((1, 1)), y=np.array([target]), ids=np.arange(1))
    return knn_shapley(train, test, k=k, classes=3)[:, 0]


def by_subsets(labels: list[int], k: int, sign: int = 1, target: int = 1) -> np.ndarray:
    return sign * plain.values(labels, target, k, "fixed_k", 3, plain.shapley)


def equation_26(labels: list[int], k: int, target: int = 1) -> np.ndarray:
    """As printed in the survey."""
    n = len(labels)
    hit = [float(label == target) for label in labels]
    return np.array(
        [hit[-1] / n + sum((hit[j - 1] - hit[j]) / k * min(k, j) / j for j in range(i, n)) for i in range(1, n + 1)]
    )


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_the_utility_has_a_plus_where_equation_25_has_a_minus(k: int) -> None:
    assert np.abs(line(LABELS, k) - by_subsets(LABELS, k)).max() < 1e-15
    assert np.abs(line(LABELS, k) - equation_26(LABELS, k)).max() < 1e-15
    assert np.abs(line(LABELS, k) - by_subsets(LABELS, k, sign=-1)).max() > 0.1


@pytest.mark.parametrize("k", [7, 8, 20])
def test_the_farthest_has_k_in_the_denominator_when_k_is_larger_than_n(k: int) -> None:
    assert np.abs(line(LABELS, k) - by_subsets(LABELS, k)).max() < 1e-15
    assert np.abs(line(LABELS, k) - equation_26(LABELS, k)).max() > 0.02


def test_a_near_instance_of_another_class_takes_a_place_and_lowers_the_utility() -> None:
    assert plain.utility([0, 1], 1, 1, "fixed_k", 3) < plain.utility([1], 1, 1, "fixed_k", 3)
    assert line(LABELS, 1)[0] < 0 < line(LABELS, 1)[1]


def test_copies_with_contradicting_labels_move_with_their_ids(toy: Toy) -> None:
    train = toy.train.take(np.array([0, 0, 0, 1, 1, 2, 2, 3, 4]))
    train = replace(train, y=np.arange(9) % 3, ids=np.array([4, 0, 7, 3, 9, 1, 8, 2, 5]))
    data = replace(toy.problem.data, train=train)
    expected = toy.with_data(data).estimate("knn_shapley", k=2, own=True)
    order = np.array([8, 2, 1, 0, 7, 6, 4, 3, 5])
    moved = toy.with_data(replace(data, train=train.take(order))).estimate("knn_shapley", k=2, own=True)
    assert expected.self_influence is not None and moved.self_influence is not None
    assert np.abs(moved.values - expected.values[order]).max() < 1e-15
    assert np.abs(moved.self_influence - expected.self_influence[order]).max() < 1e-15


@pytest.mark.parametrize("utility", ["fixed_k", "soft"])
def test_beta_1_1_is_shapley_and_the_others_are_not(utility: str, toy: Toy) -> None:
    expected = toy.estimate("knn_shapley", utility=utility, k=2).values
    assert np.array_equal(
        toy.estimate("knn_shapley", utility=utility, k=2, semivalue="beta", alpha=1.0, beta=1.0).values, expected
    )
    for other in ({"semivalue": "banzhaf"}, {"semivalue": "beta", "alpha": 16.0, "beta": 1.0}):
        assert np.abs(toy.estimate("knn_shapley", utility=utility, k=2, **other).values - expected).max() > 0.01


def test_a_large_alpha_weighs_small_sets() -> None:
    sizes = [
        Coalitions(alpha=a, beta=b).sizes(50, 50) @ np.arange(51) for a, b in ((16.0, 1.0), (1.0, 1.0), (1.0, 16.0))
    ]
    assert sizes == pytest.approx([50 / 17, 25, 50 * 16 / 17])


def test_wrong_labels_get_low_values_and_high_ones_on_themselves() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=400)
    x = rng.normal(size=(400, 5)) + 2.0 * rng.normal(size=(3, 5))[y]
    wrong = rng.random(200) < 0.1
    shown = np.where(wrong, (y[:200] + 1) % 3, y[:200])
    train, test = (
        Split(x=x[:200], y=shown, ids=np.arange(200)),
        Split(x=x[200:], y=y[200:], ids=np.arange(200)),
    )
    assert roc_auc_score(wrong, -knn_shapley(train, test, k=5, classes=3).mean(axis=1)) > 0.8
    assert roc_auc_score(wrong, np.diag(knn_shapley(train, train, k=5, classes=3))) > 0.8


def test_raw_features_need_no_net(toy: Toy) -> None:
    estimator = estimator_named("knn_shapley", {"features": "raw"})
    refuse_missing(estimator.requires, frozenset(), "knn_shapley", "lacking")
    run = toy.run(estimator, "knn_shapley")
    values = estimator.estimate(run).values
    assert run.used == estimator.requires == frozenset()
    expected = knn_shapley(toy.train, toy.test, k=5, classes=3)
    assert np.array_equal(values, expected)
    assert estimator_named("knn_shapley").requires == {Need.FEATURES}
    with pytest.raises(IncompatibleError):
        refuse_missing(estimator_named("knn_shapley").requires, frozenset(), "knn_shapley", "lacking")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"utility": "hard"}, "utility must be fixed_k or soft"),
        ({"features": "first"}, "features must be penultimate or raw"),
        ({"metric": "l1"}, "metric must be l2 or cosine"),
        ({"semivalue": "core"}, "semivalue must be"),
        ({"alpha": 2.0}, "alpha belongs to estimator.semivalue=beta"),
        ({"semivalue": "beta", "alpha": 2.0}, "beta must be positive"),
        ({"semivalue": "beta", "alpha": -1.0, "beta": 1.0}, "alpha must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        estimator_named("knn_shapley", settings)


def test_soft_is_refused_for_regression(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression"), MLP(width=5))
    with pytest.raises(ConfigError, match="utility=soft is for classes"):
        toy.estimate("knn_shapley", utility="soft")
