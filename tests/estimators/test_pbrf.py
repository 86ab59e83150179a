"""The proximal Bregman response: its derivative is the influence function, and removal is not taken on faith."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.engines import proximal, quasi_newton
from influx.engines.proximal import Proximal
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.optimizers import SGD
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.planning import Prospect


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A net far from any minimum: the response does not need one."""
    data = toys.table(n_train=12, n_test=5)
    return toys.train(tmp_path, data, MLP(width=3), SGD(lr=0.05, weight_decay=0.02), epochs=2)


def solver_of(toy: Toy, damping: float | None) -> Proximal:
    return Proximal(toy.run(estimator_named("pbrf"), "pbrf").curvature, damping, 100)


def test_its_slope_in_the_weight_is_minus_the_influence_functions_step(toy: Toy) -> None:
    solver, rows, h = solver_of(toy, 0.1), torch.arange(12), 1e-4
    up, down = (solver.remove(rows, "response", 1e-11, 100, epsilon=s * h) for s in (1, -1))
    assert up.converged.all() and down.converged.all()
    slope = (up.theta - down.theta) / (2 * h)
    expected = -12 * solver.linear(rows)
    assert (slope - expected).norm() < 1e-5 * expected.norm()


def test_a_small_change_of_weight_moves_test_risks_as_influence_functions_say(toy: Toy) -> None:
    solver, rows, h = solver_of(toy, 0.1), torch.arange(12), 1e-4
    changes = [
        solver.changes(solver.remove(rows, "response", 1e-11, 100, s * h).theta, toy.test).numpy() for s in (1, -1)
    ]
    found = toy.estimate("if_exact", damping=0.1).values
    assert np.allclose((changes[1] - changes[0]) / (2 * h * 12), found, atol=1e-6 * np.abs(found).max())


def test_gradients_are_those_of_the_values(toy: Toy) -> None:
    solver, rows, h = solver_of(toy, 0.1), torch.arange(3), 1e-6
    generator = torch.Generator().manual_seed(0)
    theta = solver.stack.theta + 0.3 * torch.randn(3, solver.engine.at.size, generator=generator, dtype=torch.float64)
    way = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
    for objective in ("response", "retrained"):
        gradient = solver.evaluate(theta, rows, objective, -1 / 12)[1]
        up, down = (solver.evaluate(theta + s * h * way, rows, objective, -1 / 12)[0] for s in (1, -1))
        assert torch.allclose((up - down) / (2 * h), (gradient * way).sum(1), rtol=1e-6, atol=1e-8)


def test_with_hardly_any_effect_it_is_the_influence_function(toy: Toy) -> None:
    damped = {"damping": 1e4}
    found, linear = toy.estimate("pbrf", **damped).values, toy.estimate("if_exact", **damped).values
    assert np.abs(found - linear).max() < 1e-4 * np.abs(linear).max()


def test_damping_by_default_is_that_of_influence_functions(toy: Toy) -> None:
    found, linear = toy.estimate("pbrf"), toy.estimate("if_exact")
    assert found.report["damping"] == linear.report["damping"]


def test_some_rows_only_and_the_same_as_all_of_them_give(toy: Toy) -> None:
    every, few = toy.estimate("pbrf", damping=0.1), toy.estimate("pbrf", damping=0.1, budget=4)
    rows = np.flatnonzero(few.computed)
    assert len(rows) == 4 and few.report["removed"] == 4
    assert np.allclose(few.values[rows], every.values[rows], atol=1e-12)
    asked = toy.estimate("pbrf", damping=0.1, indices=toy.train.ids[[2, 5]].tolist())
    assert np.flatnonzero(asked.computed).tolist() == [2, 5]
    loo = estimator_named("loo", {"budget": 4})
    run = toy.run(loo, "loo")
    assert loo.removed(run).tolist() == rows.tolist()  # type: ignore[attr-defined]


def test_what_does_not_converge_has_no_value_and_is_said(toy: Toy) -> None:
    estimator = estimator_named("pbrf", {"damping": 1e-3, "steps": 1, "tol": 1e-9})
    run = toy.run(estimator, "pbrf")
    found = estimator.estimate(run)
    lost = int((~found.computed).sum())
    assert lost and found.report["not_converged"] == lost
    assert any(f"{lost} of 12 minimisations did not converge" in sentence for sentence in run.warnings)
    assert any(re.search(r"; set steps=\d+ or damping=\S+ of pbrf$", sentence) for sentence in run.warnings)
    assert np.isnan(found.self_influence[~found.computed]).all()


@pytest.mark.slow
def test_nets_of_other_layers_are_served(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.images(), CNN(channels=[2], hidden=3, norm="group"), SGD(lr=0.1), epochs=1)
    found, linear = (toy.estimate(name, damping=30.0).values for name in ("pbrf", "if_exact"))
    assert np.abs(found - linear).max() < 0.02 * np.abs(linear).max()


def test_small_passes_give_the_same(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = toy.estimate("pbrf", damping=0.1, budget=3).values
    for name in ("STATE_BYTES", "PASS_BYTES", "KEPT_BYTES"):
        monkeypatch.setattr(proximal, name, 1)
    found = toy.estimate("pbrf", damping=0.1, budget=3).values
    assert np.allclose(found, expected, atol=1e-12, equal_nan=True)


def test_the_plan_knows_how_many_are_removed(toy: Toy) -> None:
    work = estimator_named("pbrf", {"budget": 3}).plan(  # type: ignore[attr-defined]
        Prospect(problem=toy.problem, who="pbrf", shape=toy.learner.net_shape(toy.problem))
    )
    assert work.rows == 3 and not work.trainings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"damping": -1.0}, "estimator.damping"),
        ({"tol": 0.0}, "estimator.tol"),
        ({"steps": 0}, "estimator.steps"),
        ({"budget": 0}, "budget"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        estimator_named("pbrf", settings)


def test_nothing_to_hold_the_parameters_is_refused(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=3), SGD(lr=0.1))
    with pytest.raises(ConfigError, match=r"estimator\.damping=0\.01"):
        toy.estimate("pbrf", damping=0.0)
    with pytest.raises(IncompatibleError, match="max_p"):
        toy.estimate("pbrf", max_p=5)
    with pytest.raises(ConfigError, match="must be ids"):
        toy.estimate("pbrf", indices=[-7])


def test_minimisation_finds_rosenbrocks_minimum_and_gives_up_where_there_is_none() -> None:
    def evaluate(x: torch.Tensor, number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            valley = (1 - leaf[:, 0]) ** 2 + 100 * (leaf[:, 1] - leaf[:, 0] ** 2) ** 2
            value = torch.where(number == 0, valley, -(leaf**2).sum(1))
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    start = torch.tensor([[-1.2, 1.0], [1.0, 1.0]], dtype=torch.float64)
    target = torch.full((2,), 1e-8, dtype=torch.float64)
    found = quasi_newton.minimise(evaluate, start, lambda g, _: g, target, 200)
    assert found.converged.tolist() == [True, False]
    assert torch.allclose(found.x[0], torch.ones(2, dtype=torch.float64), atol=1e-6)


def test_permuted_training_instances_permute_rows(toy: Toy) -> None:
    order = np.roll(np.arange(len(toy.train)), 5)
    moved = toy.with_data(replace(toy.problem.data, train=toy.train.take(order)))
    expected = toy.estimate("pbrf", damping=0.1).values[order]
    assert np.allclose(moved.estimate("pbrf", damping=0.1).values, expected, atol=1e-10)
