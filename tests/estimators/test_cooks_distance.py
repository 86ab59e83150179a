"""Identities of Cook's distance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.errors import ConfigError
from influx.learners.linear.logistic import Logistic
from influx.learners.linear.ridge import Ridge
from influx.oracles import plain
from influx.oracles.linear import PROBLEMS, deleted
from influx.oracles.toys import Toy, bundled, estimator_named, learned, table
from influx.problem import Data, Split


@pytest.fixture
def least_squares(tmp_path: Path) -> Toy:
    return learned(tmp_path, bundled("diabetes", 40, 4), Ridge(weight_decay=0.0))


def numbers(toy: Toy, **settings: Any) -> np.ndarray:
    """Table of shifts without ids."""
    return toy.estimate("cooks_distance", **settings).tables["parameter_shifts"].drop(columns="train_id").to_numpy()


def test_the_scalar_identity_of_least_squares(least_squares: Toy) -> None:
    x, y = plain.with_ones(least_squares.train.x), least_squares.train.y.astype(np.float64)
    (n, p), hat = x.shape, np.diag(x @ np.linalg.solve(x.T @ x, x.T))
    e = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    expected = e**2 * hat / (p * (e @ e / (n - p)) * (1 - hat) ** 2)
    found = least_squares.estimate("cooks_distance").tables["cooks_distance"]
    assert np.allclose(found["distance"], expected, rtol=1e-10)
    assert np.allclose(found["leverage"], hat, rtol=1e-10)
    assert np.array_equal(found["flagged"], expected > 4 / n) and found["flagged"].any()
    assert np.allclose(found["residual"], -e) and not found["signed"].any()


def test_the_shift_is_the_full_model_minus_the_model_without(tmp_path: Path) -> None:
    toy, refit = PROBLEMS["ridge"](tmp_path)
    n = len(toy.train)
    shift, expected = numbers(toy), refit(np.ones(n), n) - np.stack(deleted(refit, n))[:, 0]
    assert np.allclose(shift, expected, rtol=1e-9, atol=1e-13)
    assert not np.allclose(shift, -expected, rtol=0.5, atol=1e-13)


def test_groups_shift_by_the_closed_form_and_not_by_the_sum(tmp_path: Path) -> None:
    toy, _ = PROBLEMS["ridge"](tmp_path)
    model, x, n = toy.fitted.model, plain.with_ones(toy.train.x), len(toy.train)
    group, weights = np.array([3, 8, 21]), np.ones((1, len(toy.train)))
    weights[0, group] = 0
    shift = (model.theta - model.refit(toy.train, weights, "full"))[0, 0].numpy()
    penalty = n * 0.1 * np.diag([1.0] * (x.shape[1] - 1) + [0.0])
    inverse = np.linalg.inv(x.T @ x + penalty)
    e = toy.train.y - x @ model.theta[0].numpy()
    h = x[group] @ inverse @ x[group].T
    expected = inverse @ x[group].T @ np.linalg.solve(np.eye(3) - h, e[group])
    assert np.allclose(shift, expected, rtol=1e-9)
    assert np.abs(shift - numbers(toy)[group].sum(0)).max() > 1e-4 * np.abs(shift).max()


def test_one_step_beats_a_step_without_the_leverage(tmp_path: Path) -> None:
    toy, _ = PROBLEMS["two classes"](tmp_path)
    exact, step = numbers(toy), numbers(toy, variant="one_step")
    leverage = toy.estimate("cooks_distance").tables["cooks_distance"]["leverage"].to_numpy()
    plain_step = step * (1 - leverage)[:, None]
    assert 0 < np.linalg.norm(step - exact) < 0.9 * np.linalg.norm(plain_step - exact)


def test_variants_agree_for_ridge(tmp_path: Path) -> None:
    toy, _ = PROBLEMS["ridge"](tmp_path)
    assert np.array_equal(numbers(toy), numbers(toy, variant="one_step"))


def test_values_are_those_of_leave_one_out(tmp_path: Path) -> None:
    for kind in PROBLEMS:
        toy, _ = PROBLEMS[kind](tmp_path)
        found, loo = toy.estimate("cooks_distance"), toy.estimate("loo", ceiling_budget=0)
        assert np.abs(found.values - loo.values).max() <= 1e-9 * np.abs(loo.values).max()
        assert np.allclose(found.self_influence, loo.self_influence, rtol=1e-8, atol=1e-12)


def test_an_outlier_has_the_largest_distance(least_squares: Toy, tmp_path: Path) -> None:
    train = least_squares.train
    y = train.y.copy()
    y[7] += 15
    data = Data(
        name="outlier",
        task="regression",
        kind="tabular",
        train=Split(x=train.x, y=y, ids=train.ids),
        test=least_squares.test,
    )
    found = learned(tmp_path, data, Ridge()).estimate("cooks_distance").tables["cooks_distance"]
    assert found["distance"].idxmax() == 7 and found["flagged"][7]


def test_leverage_one_is_infinite_and_flagged(tmp_path: Path) -> None:
    data = table("regression")
    x = data.train.x.copy()
    x[:, 0] = 0
    x[4, 0] = 1  # without row 4 the first input is constant
    train = Split(x=x, y=data.train.y, ids=data.train.ids)
    toy = learned(
        tmp_path,
        Data(name="alone", task="regression", kind="tabular", train=train, test=data.test),
        Ridge(weight_decay=0.0),
    )
    estimator = estimator_named("cooks_distance")
    run = toy.run(estimator, "cooks_distance")
    found = estimator.estimate(run)
    distances = found.tables["cooks_distance"]
    assert np.isinf(distances["distance"][4]) and distances["flagged"][4]
    assert distances["leverage"][4] == pytest.approx(1)
    assert np.flatnonzero(~found.computed).tolist() == [4] and np.isfinite(np.delete(found.values, 4, 0)).all()
    assert "leverage 1" in run.warnings[0]


def test_many_parameters_make_a_long_table_and_too_many_none(tmp_path: Path) -> None:
    toy = learned(tmp_path, bundled("wine", 30, 4), Logistic())
    wide = toy.estimate("cooks_distance").tables["parameter_shifts"]
    assert wide.shape == (30, 1 + 3 * 14) and wide.columns[0] == "train_id" and wide.columns.is_unique
    few = toy.estimate("cooks_distance", max_shifts=100)
    assert "parameter_shifts" not in few.tables and few.report["shifts_left_out"] == 30 * 3 * 14


def test_long_tables_hold_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, _ = PROBLEMS["softmax regression"](tmp_path)
    wide = numbers(toy)
    monkeypatch.setattr("influx.estimators.linear.cooks_distance.WIDE", 3)
    long = toy.estimate("cooks_distance").tables["parameter_shifts"]
    assert list(long.columns) == ["train_id", "parameter", "shift"] and len(long) == wide.size
    assert np.array_equal(long["shift"].to_numpy().reshape(wide.shape), wide)


@pytest.mark.parametrize("settings", [{"variant": "twice"}, {"max_shifts": -1}])
def test_settings_out_of_range_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"estimator.*\.{next(iter(settings))} must be"):
        estimator_named("cooks_distance", settings)
