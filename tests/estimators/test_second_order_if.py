"""Groups to second order: nearer to refits than the first order, two terms of the Newton step's series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.errors import ConfigError
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import groups_if, plain, toys
from influx.oracles.groups_if import DECAY, effects, members, refitted, shifts, written
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def ridge(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return groups_if.ridge(tmp_path_factory.mktemp("ridge"))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("net"), toys.table(), MLP(width=3), SGD(lr=0.2, weight_decay=0.1))


def warned(toy: Toy, **settings: object) -> str:
    estimator = estimator_named("second_order_if", settings)
    run = toy.run(estimator, "second_order_if")
    estimator.estimate(run)
    return "\n".join(run.warnings)


@pytest.mark.parametrize("renormalise", [True, False])
def test_t8_the_second_order_is_nearer_to_refits_than_the_first(ridge: Toy, tmp_path: Path, renormalise: bool) -> None:
    groups = members(len(ridge.train))
    weights = 1 - groups
    if renormalise:
        weights = weights / weights.mean(axis=1, keepdims=True)
    expected = np.stack([refitted(ridge, row) for row in weights])
    settings = {"groups": written(tmp_path, ridge, groups), "renormalise": renormalise, "damping": 0.0}
    errors = []
    for order in (1, 2):
        found = shifts(ridge, effects(ridge.estimate("second_order_if", order=order, **settings), 3))
        errors.append(np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1))
    assert (errors[1] < 0.7 * errors[0]).all(), errors


@pytest.mark.parametrize("renormalise", [True, False])
def test_t8_two_terms_of_the_series_of_the_newton_step(ridge: Toy, tmp_path: Path, renormalise: bool) -> None:
    """Newton's (A - E)⁻¹ b is A⁻¹ b + A⁻¹ E A⁻¹ b + (A⁻¹ E)² (A - E)⁻¹ b, and for ridge it is the refit."""
    groups = members(len(ridge.train))
    settings = {"groups": written(tmp_path, ridge, groups), "renormalise": renormalise, "damping": 0.0}
    found = shifts(ridge, effects(ridge.estimate("second_order_if", **settings), 3))
    x, x_test, n = plain.with_ones(ridge.train.x), plain.with_ones(ridge.test.x), len(ridge.train)
    a = x.T @ x / n + DECAY * np.eye(x.shape[1])
    for shift, row in zip(found, groups, strict=True):
        weights = (1 - row) / (1 - row).mean() if renormalise else 1 - row
        step = plain.ridge(x, ridge.train.y, weights, DECAY, n) - plain.ridge(x, ridge.train.y, np.ones(n), DECAY, n)
        e = a - (x.T @ (weights[:, None] * x) / n + DECAY * np.eye(x.shape[1]))
        left = np.linalg.solve(a, e) @ np.linalg.solve(a, e) @ step
        np.testing.assert_allclose(shift, x_test @ (step - left), rtol=0, atol=1e-11 * np.abs(x_test @ step).max())


def test_the_first_order_in_place_is_the_sum_of_influence_functions(net: Toy) -> None:
    settings = {"groups": "random", "group_count": 3, "group_size": 4, "curvature": "hessian", "damping": 2.0}
    found = net.estimate("second_order_if", order=1, renormalise=False, **settings).values
    np.testing.assert_allclose(found, net.estimate("group_if", **settings).values, rtol=1e-12)


def test_the_paper_weighs_the_first_order_up(net: Toy, tmp_path: Path) -> None:
    """Without a regulariser Δ₁ is that of group_if over 1 - q, and of both signs the same."""
    toy = toys.train(tmp_path, toys.table(), MLP(width=3), SGD(lr=0.2))
    groups = members(len(toy.train), (0.2, 0.5))
    settings = {"groups": written(tmp_path, toy, groups), "damping": 2.0}
    found = effects(toy.estimate("second_order_if", order=1, **settings), 2)
    plain_sum = effects(toy.estimate("group_if", **settings), 2)
    np.testing.assert_allclose(found, plain_sum / (1 - groups.mean(axis=1, keepdims=True)), rtol=1e-12)


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("curvature", ["ggn", "sampled_fisher"])
def test_conjugate_gradients_give_the_same(net: Toy, renormalise: bool, curvature: str) -> None:
    settings = {"renormalise": renormalise, "curvature": curvature, "damping": 2.0}
    exact, cg = (net.estimate("second_order_if", solver=solver, **settings) for solver in ("exact", "cg"))
    np.testing.assert_allclose(cg.values, exact.values, rtol=0, atol=1e-6 * np.abs(exact.values).max())
    assert cg.report["second_over_first"] == pytest.approx(exact.report["second_over_first"], rel=1e-4)


def test_the_report_has_the_size_of_the_second_order(ridge: Toy, tmp_path: Path) -> None:
    groups = members(len(ridge.train))
    found = ridge.estimate("second_order_if", groups=written(tmp_path, ridge, groups), renormalise=False)
    each = found.tables["groups"]["second_over_first"].to_numpy()
    x, y, n = plain.with_ones(ridge.train.x), ridge.train.y.astype(np.float64), len(ridge.train)
    a = x.T @ x / n + DECAY * np.eye(x.shape[1])
    residuals = x @ plain.ridge(x, y, np.ones(n), DECAY, n) - y
    for ratio, row in zip(each, groups, strict=True):
        first = np.linalg.solve(a, x.T @ (row * residuals)) / n
        second = np.linalg.solve(a, x.T @ (row * (x @ first))) / n
        assert ratio == pytest.approx(np.linalg.norm(second) / np.linalg.norm(first), rel=1e-9)
    assert found.report["second_over_first"] == each.max()
    assert found.report["largest_share"] == 0.5 and found.report["both_over_first"] > 1


def test_half_of_the_data_and_a_large_second_order_are_doubtful(ridge: Toy, tmp_path: Path) -> None:
    small = written(tmp_path, ridge, members(len(ridge.train), (0.1, 0.25)))
    assert not warned(ridge, groups=small)
    large = warned(ridge, groups=written(tmp_path, ridge, members(len(ridge.train), (0.1, 0.5))))
    assert "1 of 2 groups hold half of the training instances or more" in large
    most = warned(ridge, groups=written(tmp_path, ridge, members(len(ridge.train), (0.9,))))
    assert "the second order is larger than the first for 1 of 1 groups" in most


def test_all_instances_leave_nobody_to_take_over(ridge: Toy, tmp_path: Path) -> None:
    file = written(tmp_path, ridge, np.ones((1, len(ridge.train))))
    with pytest.raises(ConfigError, match=r"holds all 60 training instances and nothing is left to take over"):
        ridge.estimate("second_order_if", groups=file)
    found = effects(ridge.estimate("second_order_if", groups=file, renormalise=False), 1)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"order": 3}, "estimator.order must be 1 or 2, got 3"),
        ({"solver": "ekfac"}, "estimator.solver must be auto, exact, cg or lissa, got ekfac"),
        ({"group_size": 0}, "estimator.group_size must be at least 1, got 0"),
        ({"damping": -1.0}, "estimator.damping must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        estimator_named("second_order_if", settings)
