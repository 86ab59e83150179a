"""Shapley values of features: least squares, standard errors, imputation, tables and settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.engines import explanations
from influx.engines.coalitions import constrained_least_squares, kernel_weights, powerset, semivalues, shapley_weights
from influx.engines.feature_games import FeatureGame, PairedKernel, drawn_pairs, players_of, samples_of
from influx.engines.games import TableGame
from influx.errors import ConfigError, NumericalError
from influx.learners.linear.ridge import Ridge
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.planning import Prospect
from tests.contract.checks import (
    block_sizes_do_not_matter,
    columns_do_not_depend_on_each_other,
    permuted_training_instances_permute_rows,
)

PLAYERS = 7


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(features=6), MLP(width=4), SGD(lr=0.3))


def table_game() -> TableGame:
    rng = np.random.default_rng(0)
    additive = np.concatenate(list(powerset(PLAYERS))) @ rng.normal(size=(PLAYERS, 3))
    return TableGame(additive + 0.5 * rng.normal(size=(2**PLAYERS, 3)))


def game_of(toy: Toy) -> FeatureGame:
    return FeatureGame(
        outcomes=toy.fitted.outcomes,
        task="classification",
        output="loss",
        split=toy.test,
        background=toy.train.x,
        members=np.eye(6, dtype=bool),
    )


def test_least_squares_over_all_coalitions_give_the_shapley_value(toy: Toy) -> None:
    game = game_of(toy)
    everything = np.concatenate(list(powerset(6)))
    values, inner = game.values(everything), everything[1:-1]
    found = constrained_least_squares(inner, values[1:-1], kernel_weights(6, inner.sum(axis=1)), values[0], values[-1])
    assert np.allclose(found, semivalues(game, shapley_weights(6)), rtol=0, atol=1e-12)


def test_pairs_are_least_squares_over_both_of_each_pair() -> None:
    game, drawn = table_game(), drawn_pairs(PLAYERS, 40, np.random.default_rng(0))
    kernel = PairedKernel(drawn)
    found, _ = kernel.values(*kernel.differences(game))
    both = np.concatenate([drawn, ~drawn])
    empty, full = game.values(np.stack([np.zeros(PLAYERS, bool), np.ones(PLAYERS, bool)]))
    expected = constrained_least_squares(both, game.values(both), np.ones(len(both)), empty, full)
    assert np.allclose(found, expected, rtol=0, atol=1e-12)
    assert np.allclose(found.sum(axis=0), full - empty, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pairs", [32, 200])
def test_standard_errors_cover_the_exact_values(pairs: int) -> None:
    game = table_game()
    exact, z = semivalues(game, shapley_weights(PLAYERS)), []
    for seed in range(200):
        kernel = PairedKernel(drawn_pairs(PLAYERS, pairs, np.random.default_rng(seed)))
        found, stderr = kernel.values(*kernel.differences(game))
        z.append((found - exact) / stderr)
    assert 0.92 < (np.abs(z) < 1.96).mean() < 0.98
    assert abs(np.mean(z)) < 0.1


def test_coalitions_are_drawn_by_their_weight_and_longer_draws_go_on() -> None:
    drawn = drawn_pairs(5, 20_000, np.random.default_rng(0))
    shares = np.bincount(drawn.sum(axis=1), minlength=5)[1:] / len(drawn)
    expected = 1 / (np.arange(1, 5) * (5 - np.arange(1, 5)))
    assert np.allclose(shares, expected / expected.sum(), atol=0.01)
    assert np.allclose(drawn.mean(axis=0), 0.5, atol=0.015)
    assert np.array_equal(drawn[:50], drawn_pairs(5, 50, np.random.default_rng(0)))


def test_pairs_that_leave_a_value_open_are_refused() -> None:
    with pytest.raises(NumericalError, match=r"estimator\.n_samples"):
        PairedKernel(np.array([[True, False, False]] * 8 + [[False, True, False]]))


def test_a_feature_without_effect_has_no_value(tmp_path: Path) -> None:
    data = toys.table("regression", features=4)
    still = replace(data, train=replace(data.train, x=np.where(np.arange(4) == 2, np.float32(0.7), data.train.x)))
    fitted = toys.train(tmp_path, still, MLP(width=3))
    same = fitted.with_data(replace(still, test=replace(still.test, x=still.train.x[:4], y=still.train.y[:4])))
    for settings in ({}, {"max_exact": 0, "n_samples": 64, "output": "logit"}):
        importance = same.estimate("shap", **settings).tables["feature_importance"].set_index("feature")
        assert abs(importance["value"].iloc[2]) < (1e-12 if not settings else 3 * importance["stderr"].iloc[2])
        assert (importance["mean_size"].drop(index=importance.index[2]) > 1e-3).all()


def test_sampled_values_keep_the_contract(toy: Toy, tmp_path: Path) -> None:
    estimator = estimator_named("shap", {"max_exact": 0, "n_samples": 64, "background": 4})
    made = iter(range(20))

    def make(**settings: object) -> Toy:
        return toys.train(tmp_path / str(next(made)), toys.table(features=6), MLP(width=4), SGD(lr=0.3), **settings)

    permuted_training_instances_permute_rows(estimator, make)
    columns_do_not_depend_on_each_other(estimator, make)
    block_sizes_do_not_matter(estimator, make)


def test_it_explains_a_model_that_is_no_net(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table("regression", features=4), Ridge(weight_decay=0.1))
    table = toy.estimate("shap", output="logit", background="mean").tables["features"]
    values = table["value"].to_numpy().reshape(len(toy.test), 4)
    center = toy.train.x.mean(axis=0)
    moved = [
        toy.fitted.outcomes(replace(toy.test, x=np.where(np.arange(4) == f, toy.test.x, center))) for f in range(4)
    ]
    none = toy.fitted.outcomes(replace(toy.test, x=np.broadcast_to(center, toy.test.x.shape))).prediction
    assert np.allclose(values, np.stack([m.prediction - none for m in moved], axis=1), atol=1e-5)


def test_tables_hold_means_and_leave_out_what_is_too_long(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({}, {"max_exact": 0, "n_samples": 64}):
        found = toy.estimate("shap", **settings)
        means = found.tables["features"].groupby("feature", sort=False)["value"]
        importance = found.tables["feature_importance"]
        assert np.allclose(importance["value"], means.mean(), rtol=1e-10)
        assert np.allclose(importance["mean_size"], means.apply(lambda v: v.abs().mean()), rtol=1e-10)
        assert (importance["stderr"] > 0).all() == bool(settings)
    monkeypatch.setattr(explanations, "TABLE_ROWS", 6 * len(toy.test) - 1)
    assert set(toy.estimate("shap").tables) == {"feature_importance"}


def test_patches_cover_images_that_they_do_not_divide() -> None:
    members, names = players_of(toys.images(), 3)
    assert members.shape == (9, 64) and (members.sum(axis=0) == 1).all()
    assert members.sum(axis=1).tolist() == [9, 9, 6, 9, 9, 6, 6, 6, 4]
    assert names[5] == "patch 1,2"


def test_the_plan_counts_the_forward_passes(toy: Toy) -> None:
    for settings, coalitions in (({"background": 3}, 64), ({"max_exact": 0, "n_samples": 70, "background": 3}, 70)):
        estimator = estimator_named("shap", settings)
        run, seen = toy.run(estimator, "shap"), []
        outcomes = toy.fitted.outcomes

        def spied(split, outcomes=outcomes, seen=seen):
            seen.append(len(split))
            return outcomes(split)

        object.__setattr__(run, "fitted", type("Spied", (), {"outcomes": staticmethod(spied)})())
        estimator.estimate(run)
        work = estimator.plan(Prospect(problem=toy.problem, who="shap"))
        assert f"{coalitions} coalitions x 3 background" in work.formula
        most = (len(toy.train) + len(toy.test)) * coalitions * 3
        ends = (len(toy.train) + len(toy.test)) * 2 * 3  # nobody and everybody, besides the pairs
        assert most / 2 < sum(seen) <= most + ends


@pytest.mark.parametrize(
    "settings",
    [{"background": 0}, {"patch": 0}, {"max_exact": 21}, {"n_samples": 65}, {"n_samples": 62}],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"estimator.{next(iter(settings))}"):
        estimator_named("shap", settings)


def test_settings_that_do_not_fit_the_data_are_refused_by_plan_and_run(toy: Toy, tmp_path: Path) -> None:
    line = toys.train(tmp_path, toys.table("regression"), MLP(width=2))
    for problem, settings in ((line, {"output": "accuracy"}), (toy, {"patch": 2})):
        estimator = estimator_named("shap", settings)
        for ask in (
            lambda e=estimator, p=problem: e.plan(Prospect(problem=p.problem, who="shap")),
            lambda e=estimator, p=problem: e.estimate(p.run(e, "shap")),
        ):
            with pytest.raises(ConfigError, match=f"estimator.{next(iter(settings))}"):
                ask()
    with pytest.raises(ConfigError, match=r"estimator\.n_samples"):
        samples_of(64, 100)
    assert samples_of(64, None) == 2176


@pytest.mark.filterwarnings("ignore")
def test_it_agrees_with_the_package_of_its_authors(toy: Toy) -> None:
    shap = pytest.importorskip("shap")

    def losses(x: np.ndarray, row: int) -> np.ndarray:
        y = np.repeat(toy.test.y[row], len(x))
        return toy.fitted.outcomes(replace(toy.test, x=x.astype(np.float32), y=y, ids=np.arange(len(x)))).loss

    values = toy.estimate("shap").tables["features"]["value"].to_numpy().reshape(len(toy.test), 6)
    for row in range(len(toy.test)):
        explainer = shap.KernelExplainer(lambda x, row=row: losses(x, row), toy.train.x)
        theirs = explainer.shap_values(toy.test.x[row : row + 1], silent=True, l1_reg=False)
        assert np.allclose(values[row], -theirs[0], rtol=0, atol=1e-6)
