"""Representers of a sparse head and of one of low rank: conditions of the optimum, exact sums, nothing left at all."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.engines.representers import surrogate
from influx.engines.sparse_heads import L1, Norm, Nuclear, fit, parts
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.problem import TaskName

NORMS: dict[str, Norm] = {"representer_l1": L1(), "representer_nuclear": Nuclear()}
KERNELS = [
    ("representer_l1", {}),
    *[("representer_nuclear", {"kernel": k}) for k in ("left", "right", "half", "average")],
]


@pytest.fixture(scope="module", params=["classification", "regression"])
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    task: TaskName = request.param
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(task, n_train=20, n_test=5), MLP(width=6))


def start(toy: Toy, name: str) -> Any:
    return surrogate(toy.run(estimator_named(name), name), "labels", "augment", 0.0)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize(("name", "settings"), KERNELS)
def test_values_add_up_to_the_refitted_values(name: str, settings: dict[str, Any], share: float, toy: Toy) -> None:
    found = toy.estimate(name, penalty_share=share, **settings)
    made = start(toy, name)
    theta = fit(made.objective, NORMS[name], None, share, 1e-10, 50000).theta
    outputs = (made.test @ theta.T).numpy()
    if toy.task == "classification":
        expected = outputs[np.arange(len(toy.test)), toy.test.y]
    else:
        expected = outputs[:, 0] * np.where(toy.test.y >= outputs[:, 0], 1, -1)
    np.testing.assert_allclose(found.values.sum(axis=0), expected, rtol=0, atol=1e-8)
    assert found.report["reconstruction_error"] < 1e-8 and found.report["residual"] < 1e-10


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_sparse_optimum_meets_its_conditions(share: float, toy: Toy) -> None:
    objective = start(toy, "representer_l1").objective
    made = fit(objective, L1(), None, share, 1e-10, 50000)
    slope = objective.mean_gradient(objective.outputs(made.theta)) / made.penalty
    left = made.theta != 0
    assert 0 < int(left.sum()) < left.numel()
    assert float((slope + made.theta.sign())[left].abs().max()) < 1e-12
    assert float(slope[~left].abs().max()) <= 1 + 1e-12


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_optimum_of_low_rank_meets_its_conditions(share: float, toy: Toy) -> None:
    objective = start(toy, "representer_nuclear").objective
    made = fit(objective, Nuclear(), None, share, 1e-10, 50000)
    dual = -objective.mean_gradient(objective.outputs(made.theta)) / made.penalty
    u, s, vt = parts(made.theta)
    values = torch.linalg.svdvals(dual)
    torch.testing.assert_close(values[: len(s)], torch.ones_like(s), rtol=0, atol=1e-10)
    assert 0 < len(s) <= len(values) and float(values.max()) <= 1 + 1e-10
    torch.testing.assert_close(u.T @ dual, vt, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NORMS)
def test_a_smaller_penalty_leaves_more(name: str, toy: Toy) -> None:
    key = "weights_left" if name == "representer_l1" else "rank"
    sizes = [toy.estimate(name, penalty_share=share).report[key] for share in (0.99, 0.1, 0.003)]
    assert sizes == sorted(sizes) and sizes[0] >= 1
    assert sizes[0] < sizes[-1] or toy.task == "regression"


@pytest.mark.parametrize("name", NORMS)
def test_where_nothing_is_left_there_is_nothing_to_explain(name: str, toy: Toy) -> None:
    largest = toy.estimate(name).report["penalty_max"]
    for penalty in (largest, 3 * largest):
        with pytest.raises(ConfigError, match=r"there is nothing to explain.*set for example estimator.penalty="):
            toy.estimate(name, penalty=penalty)
    made = start(toy, name).objective
    zero = torch.zeros(made.shape, dtype=torch.float64)  # which is the optimum there, but not just below
    dual = made.mean_gradient(made.outputs(zero))
    assert NORMS[name].residual(zero, -dual / (1.001 * largest)) <= 0
    assert NORMS[name].residual(zero, -dual / (0.999 * largest)) > 0
    assert toy.estimate(name, penalty=0.999 * largest).report["residual"] < 1e-10


def test_features_without_weight_do_not_count(toy: Toy) -> None:
    made = start(toy, "representer_l1")
    theta = fit(made.objective, L1(), None, 0.5, 1e-10, 50000).theta
    values = toy.estimate("representer_l1", penalty_share=0.5).values
    without = (theta != 0).sum(1).numpy() == 0
    for j, label in enumerate(toy.test.y if toy.task == "classification" else np.zeros(len(toy.test), int)):
        assert (values[:, j] == 0).all() == without[int(label)]


def test_the_average_is_that_of_left_and_right(toy: Toy) -> None:
    left, right, both = (toy.estimate("representer_nuclear", kernel=k) for k in ("left", "right", "average"))
    np.testing.assert_allclose(both.values, (left.values + right.values) / 2, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        both.self_influence,
        (left.self_influence + right.self_influence) / 2,
        rtol=0,
        atol=1e-12,  # type: ignore[operator]
    )


@pytest.mark.parametrize("name", NORMS)
def test_too_few_steps_are_refused(name: str, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(NORMS[name]), "polish", lambda self, objective, theta, penalty: theta)
    with pytest.raises(NumericalError, match=r"after 3 steps it is .*estimator.max_steps, for example to 12"):
        toy.estimate(name, max_steps=3, penalty_share=0.01)


@pytest.mark.parametrize("name", NORMS)
def test_proximal_steps_alone_reach_the_same_optimum(name: str, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    polished = toy.estimate(name, penalty_share=0.3).values
    monkeypatch.setattr(type(NORMS[name]), "polish", lambda self, objective, theta, penalty: theta)
    slow = toy.estimate(name, penalty_share=0.3, tolerance=1e-9).values
    np.testing.assert_allclose(slow, polished, rtol=0, atol=1e-6 * np.abs(polished).max())


@pytest.mark.parametrize(
    "settings", [{"penalty": 0.0}, {"penalty": -1.0}, {"penalty_share": 1.0}, {"penalty_share": 0.0}]
)
@pytest.mark.parametrize("name", NORMS)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, float]) -> None:
    (setting,) = settings
    with pytest.raises(ConfigError, match=f"estimator.{setting} must be"):
        estimator_named(name, settings)


@pytest.mark.parametrize("classes", [2, 4])
def test_an_even_number_of_classes_has_one_answer(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its l1 optimum is not unique: what is found must not depend on the order of the instances or on the start."""
    rng, data = np.random.default_rng(0), toys.table(n_train=40, n_test=8)
    x, y = rng.normal(size=(48, 3)).astype(np.float32), rng.integers(0, classes, 48)
    train, test = replace(data.train, x=x[:40], y=y[:40]), replace(data.test, x=x[40:], y=y[40:])
    data = replace(data, train=train, test=test, classes=tuple("abcd"[:classes]))
    toy = toys.train(tmp_path, data, MLP(width=6), epochs=20)
    order = rng.permutation(40)
    found = toy.estimate("representer_l1", penalty_share=0.05).values
    moved = toy.with_data(replace(data, train=train.take(order))).estimate("representer_l1", penalty_share=0.05).values
    np.testing.assert_allclose(moved, found[order], rtol=0, atol=1e-6 * np.abs(found).max())
    monkeypatch.setattr("influx.engines.sparse_heads.FIRST_STEPS", 3000)
    longer = toy.estimate("representer_l1", penalty_share=0.05).values
    np.testing.assert_allclose(longer, found, rtol=0, atol=1e-6 * np.abs(found).max())
    made = start(toy, "representer_l1")
    theta = fit(made.objective, L1(), None, 0.05, 1e-10, 50000).theta.numpy()
    np.testing.assert_allclose(np.median(theta, axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("name", NORMS)
def test_defaults_in_messages_are_those_of_the_estimator(name: str) -> None:
    for setting, usual in (("tolerance", "1e-10"), ("max_steps", "50000")):
        with pytest.raises(ConfigError, match=f"got 0.*; {usual} is the default"):
            estimator_named(name, {setting: 0})


@pytest.mark.parametrize("penalty", [None, 0.1])
@pytest.mark.parametrize("name", NORMS)
def test_targets_that_are_all_zero_are_refused(name: str, penalty: float | None, tmp_path: Path) -> None:
    data = toys.table("regression")
    toy = toys.train(tmp_path, data, MLP(width=3))
    zeros = replace(data, train=replace(data.train, y=np.zeros_like(data.train.y)))
    with pytest.raises(IncompatibleError, match=r"all targets zero.*choose another dataset"):
        toy.with_data(zeros).estimate(name, penalty=penalty)


@pytest.mark.parametrize("name", NORMS)
def test_the_penalty_that_a_refusal_names_works(name: str, tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_train=60), MLP(width=6), epochs=20)
    with pytest.raises(NumericalError, match=r"set estimator.penalty=") as refused:
        toy.estimate(name, penalty_share=1e-6, max_steps=200)
    named = re.search(r"or set estimator.penalty=(\S+)$", str(refused.value))
    assert named and toy.estimate(name, penalty=float(named[1]), max_steps=200).report["residual"] <= 1e-10


def test_one_test_instance_has_no_spread_to_warn_about(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression", n_train=20, n_test=1), MLP(width=6), epochs=200)
    for name, settings in (("representer_l1", {"penalty_share": 0.01}), ("representer_point", {"penalty": 1e-4})):
        estimator = estimator_named(name, settings)
        run = toy.run(estimator, name)
        report = estimator.estimate(run).report
        assert report["mean_output_change"] < report["output_spread"] / 2 and not run.warnings
