"""Invariances that hold across methods: T6, T8 and T11, and the sign of a pair's interaction (E6)."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from influx.catalogue import list_estimators
from influx.engines import coalitions as exact
from influx.engines.contrasts import difference
from influx.engines.games import TableGame
from influx.engines.online import Online
from influx.engines.pairs import adjacent, taylor
from influx.engines.permutations import Truncation, drawn, sampled
from influx.engines.risk_sums import Sums
from influx.engines.stopping import Stop
from influx.learners.linear.logistic import Logistic
from influx.learners.linear.ridge import Ridge
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import plain, toys
from influx.oracles.toys import Toy, estimator_named
from influx.problem import Data
from tests.estimators.sampled_games import run_of

Array = NDArray[np.float64]
FAMILIES = ("retraining", "shapley", "neighbours", "linear models")
LEFT_OUT = {
    "shap",  # the players are features
    "neuron_shapley",  # or units, not training instances
    "complexity_gap",  # says how irregular an instance is, whatever is tested
    "simfluence",  # cannot tell instances apart in a training on full batches
}
NAMES = [row["name"] for row in list_estimators() if row["family"] in FAMILIES and row["name"] not in LEFT_OUT]
RELATIVE = {"downsampling", "c_score", "data_oob"}  # to the mean of the others: fixed numbers of instances (E9)
SETTINGS: dict[str, dict[str, Any]] = {
    "ame": {"models": 400},
    "datamodels": {"models": 400, "target": "loss"},
    "data_oob": {"models": 400},
    "group_loo": {"groups": "single.csv"},
    "knn_loo": {"k": 1},
    "knn_shapley": {"k": 1},
    "g_shapley": {"permutations": 30},
    "influence_sketching": {"k": 99},
    "c_score": {"target": "loss"},
}
LEFT, RIGHT, WRONG = 0, 0, 1  # the test instance, and rows of its copies with its label and with another one


def copied() -> Data:
    """Test instance 0 is twice in training: with its label, and with another."""
    data = toys.table(n_train=9)
    x, y = data.train.x.copy(), data.train.y.copy()
    x[[RIGHT, WRONG]], y[RIGHT], y[WRONG] = data.test.x[LEFT], data.test.y[LEFT], (data.test.y[LEFT] + 1) % 3
    return replace(data, train=replace(data.train, x=x, y=y))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    settings = {"batch_size": 9, "epochs": 30}
    return toys.train(tmp_path_factory.mktemp("net"), copied(), MLP(width=4), SGD(lr=0.5), **settings)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.learned(tmp_path_factory.mktemp("linear"), copied(), Logistic(weight_decay=0.02))


@pytest.mark.parametrize("name", NAMES)
def test_t8_signs_of_a_right_and_a_wrong_copy_of_a_test_instance(
    name: str, net: Toy, linear: Toy, tmp_path: Path
) -> None:
    """A copy with the right label helps, one with a wrong label harms."""
    settings = dict(SETTINGS.get(name, {}))
    if name == "group_loo":
        file = tmp_path / settings["groups"]
        file.write_text("train_id,group\n" + "".join(f"{i},{i}\n" for i in net.train.ids))
        settings["groups"] = str(file)
    toy = linear if "linear_model" in needs(name) else net
    column = toy.estimate(name, **settings).values[:, LEFT]
    if name in ("knn_loo", "knn_shapley"):  # of two equally near instances the smaller id is asked first
        assert column[RIGHT] > 0 >= column[WRONG]
        other = moved(toy).estimate(name, **settings).values[:, LEFT]  # the wrong copy has the smaller id
        assert other[WRONG] < 0 <= other[RIGHT]
        return
    level = column.mean() if name in RELATIVE else 0.0
    assert column[WRONG] < level < column[RIGHT]


def needs(name: str) -> list[str]:
    return next(row["needs"] for row in list_estimators() if row["name"] == name)


def moved(toy: Toy) -> Toy:
    """The copies exchange their ids."""
    ids = toy.train.ids.copy()
    ids[[RIGHT, WRONG]] = ids[[WRONG, RIGHT]]
    data = toy.problem.data
    return toy.with_data(replace(data, train=replace(data.train, ids=ids)))


# T11: influence on the mean risk is the mean of the columns


N = 8
PAIRS = np.random.default_rng(0).normal(size=(N, N, 4))


def risks(masks: Array) -> Array:
    """Of four test instances, with interactions."""
    return np.asarray(2 - np.einsum("ki,kj,ijc->kc", masks, masks, PAIRS))


def mean_risk(masks: Array) -> Array:
    return risks(masks).mean(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("loo", {"ceiling_budget": 0}),
        ("group_loo", {"groups": "random", "group_count": 4, "group_size": 2}),
        ("downsampling", {}),
        ("downsampling", {"sampling": "paired_sizes"}),
        ("banzhaf", {}),
        ("banzhaf", {"rule": "ols"}),
        ("ame", {"rule": "ipw"}),
        ("c_score", {}),
        ("data_oob", {}),
    ],
)
def test_t11_the_effect_on_the_mean_risk_is_the_mean_of_the_effects(name: str, settings: dict[str, Any]) -> None:
    each, mean = values_of(name, risks, settings), values_of(name, mean_risk, settings)
    each, mean = each[np.isfinite(each[:, 0])], mean[np.isfinite(mean[:, 0])]  # some are in no group
    assert np.ptp(each, axis=1).max() > 0.1  # columns differ
    assert np.abs(each.mean(axis=1) - mean[:, 0]).max() <= 1e-12 * np.abs(each).max()


@pytest.mark.parametrize("name", ["ame", "datamodels"])
def test_t11_does_not_hold_of_a_penalty_chosen_for_each_column(name: str) -> None:
    """So that the joint influence of these is a regression of its own."""
    each, mean = (values_of(name, game, {"debias": False}) for game in (risks, mean_risk))
    assert np.abs(each.mean(axis=1) - mean[:, 0]).max() > 1e-6


def values_of(name: str, game: Any, settings: dict[str, Any]) -> Array:
    estimator: Any = estimator_named(name, ({"target": "loss"} if name != "loo" else {}) | settings)
    run = run_of(game, N, 0)
    run.removal_noise = ""
    return np.asarray(estimator.estimate(run).values)


@pytest.mark.parametrize("kind", ["exact", "permutations", "interaction", "taylor"])
def test_t11_games_of_the_mean_are_means_of_games(kind: str) -> None:
    """Where truncation looks at the mean, it looks at the same in both."""
    masks = next(exact.powerset(N)).astype(float)
    every, one = (TableGame(-game(masks)) for game in (risks, mean_risk))
    orders = drawn(np.arange(N), 40, False, np.random.default_rng(0))
    stop, rule = Stop(rule="budget", every=1000), Truncation(tolerance=0.2, patience=1)

    def found(game: TableGame) -> list[Array]:
        if kind == "exact":
            weights = exact.beta_weights(N, 4, 1), exact.taylor_weights(N)
            return list(exact.with_interactions(game, *weights))
        if kind == "permutations":
            walked = sampled(game, orders, np.ones(N), stop, truncation=rule)
            assert 0 < walked.walked < 1
            return [walked.values[:, :-1]]
        pairs = adjacent(game, orders) if kind == "interaction" else taylor(game, orders)
        return [pairs.values[:, :-1], pairs.pairs[:, :-1]]

    for each, mean in zip(found(every), found(one), strict=True):
        known = np.isfinite(each).all(axis=1)
        assert known.any() and np.abs(each[known].mean(axis=1) - mean[known, 0]).max() <= 1e-12 * 100


@pytest.mark.parametrize("k", [1, 3, 9])
def test_t11_neighbours_play_the_game_of_the_mean_utility(k: int, net: Toy) -> None:
    """By definition on the mean over test instances of the share of right labels among the k nearest of a set."""
    rows = np.arange(7)
    train = replace(net.train, x=net.train.x[rows], y=net.train.y[rows], ids=net.train.ids[rows])
    seen = net.with_data(replace(net.problem.data, train=train))
    distance = np.square(train.x[:, None].astype(float) - seen.test.x[None]).reshape(7, len(seen.test), -1).sum(axis=2)
    coalitions, worth = next(exact.powerset(7)), np.zeros(2**7)
    for column, label in zip(distance.T, seen.test.y, strict=True):
        order = np.lexsort((train.ids, column))
        inside = coalitions[:, order]
        near = inside & (np.cumsum(inside, axis=1) <= k)
        worth += near @ (train.y[order] == label).astype(float) / k / len(seen.test)
    game = TableGame(worth[:, None])
    for name, weights in (("knn_shapley", exact.shapley_weights(7)), ("knn_loo", np.eye(7)[-1])):
        found = seen.estimate(name, features="raw", k=k).values
        assert np.ptp(found, axis=1).max() > 0.01
        assert np.abs(found.mean(axis=1) - exact.semivalues(game, weights)[:, 0]).max() <= 1e-12


def test_t11_cooks_distance_predicts_the_change_of_the_mean_risk(tmp_path: Path) -> None:
    """The mean of the columns is the mean risk at the shifted parameters less that at the model's own."""
    toy = toys.learned(tmp_path, toys.table("regression", n_train=20), Ridge(weight_decay=0.1))
    found = toy.estimate("cooks_distance")
    shift = found.tables["parameter_shifts"].drop(columns="train_id").to_numpy()
    theta, x = toy.fitted.model.theta[0].numpy(), plain.with_ones(toy.test.x)

    def mean_risk_at(parameters: Array) -> float:
        return float(np.square(x @ parameters - toy.test.y).mean() / 2)

    expected = [mean_risk_at(theta - each) - mean_risk_at(theta) for each in shift]
    assert np.ptp(found.values, axis=1).max() > 1e-3
    assert np.abs(found.values.mean(axis=1) - expected).max() <= 1e-12


def test_t11_g_shapley_has_the_falls_of_the_mean_risk(net: Toy) -> None:
    module, order = net.module(0), np.random.default_rng(0).permutation(len(net.train))
    (x, y), means = net.tensors(net.train), [plain.losses(net, module, net.test).mean()]
    for i in order:
        module.zero_grad()
        plain.risks(net.task, module(x[[i]]), y[[i]]).mean().backward()
        for p in module.parameters():
            p.data -= 0.2 * p.grad
        means.append(plain.losses(net, module, net.test).mean())
    rows = Online(net.fitted, net.train, net.test, 1, 1).falls(order[None], 0.2)[0]
    assert np.abs(rows[order, -1] + np.diff(means)).max() <= 1e-12 and np.ptp(rows[:, :-1], axis=1).max() > 1e-3
    found = net.estimate("g_shapley", permutations=2, stop="budget", check_every=2)
    assert np.abs(found.tables["joint"]["influence"] - found.values.mean(axis=1)).max() <= 1e-12


# T6: a model that learns the mean


def test_t6_downsampling_of_a_model_that_learns_the_mean_is_known() -> None:
    """Over all subsets of m of n instances, by the variance of a mean drawn without replacement."""
    n, m, aim = 7, 4, 0.7
    y = np.random.default_rng(0).normal(size=n)
    masks = np.zeros((0, n))
    for chosen in combinations(range(n), m):
        masks = np.concatenate([masks, np.isin(np.arange(n), chosen)[None]])
    sums = Sums(n, 1)
    sums.add(masks > 0, np.square(aim - masks @ y / m)[:, None])
    found = difference([(sums, sums)]).values[:, 0]
    for i in range(n):
        others = np.delete(y, i)
        centre, spread = others.mean(), others.var(ddof=1)

        def variance(q: int, spread: float = spread) -> float:
            return float(spread / q * (1 - q / (n - 1)))

        without = (aim - centre) ** 2 + variance(m)
        with_ = (aim - (y[i] + (m - 1) * centre) / m) ** 2 + ((m - 1) / m) ** 2 * variance(m - 1)
        assert np.isclose(found[i], without - with_, rtol=1e-10, atol=1e-12)


# E6: signs of the four terms


def test_e6_a_pair_gains_what_its_members_do_not_gain_alone(tmp_path: Path) -> None:
    """Two players: L(i) + L(j) - L(both) - L(none), for both indices; the survey's (20) has one sign for all terms."""
    data = toys.table(n_train=6)
    toy = toys.train(tmp_path, data, MLP(width=3), SGD(lr=0.3), batch_size=6)
    file = tmp_path / "two.csv"
    file.write_text("train_id,group\n" + "".join(f"{i},{'ab'[k % 2]}\n" for k, i in enumerate(data.train.ids)))
    game: Any = estimator_named("shapley", {"groups": str(file)})
    run = toy.run(game, "shapley")
    none, a, b, both = -game.game(run, game.players(run)).values(next(exact.powerset(2))).mean(axis=1)
    for name in ("shapley_interaction", "shapley_taylor"):
        (value,) = toy.estimate(name, groups=str(file)).tables["interactions"]["value"]
        assert np.isclose(value, a + b - both - none, rtol=1e-10) and abs(value) > 1e-3
