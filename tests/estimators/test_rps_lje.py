"""The local expansion: exact for squares, of second order for logits, and an influence function of the logit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.engines import head_solvers
from influx.engines.heads import head_at_end
from influx.errors import ConfigError, NumericalError
from influx.learners.torch.optimizers import SGD, AdamW
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.influence_functions import logistic_problem, ridge_problem
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def logistic(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return logistic_problem(tmp_path_factory.mktemp("logistic"))[0]


@pytest.fixture(scope="module")
def undecayed(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=3), SGD(lr=0.2))


def error(toy: Toy, lr: float) -> float:
    with torch.no_grad():
        logits = toy.module()(toy.tensors(toy.test)[0]).numpy()
    found = toy.estimate("rps_lje", lr=lr, damping=0.0)
    off = found.values.sum(axis=0) - logits[np.arange(len(logits)), toy.test.y]
    assert found.report["reconstruction_error"] == pytest.approx(float(np.abs(off).max()), rel=1e-6)
    return float(np.abs(off).max())


def test_half_the_step_quarters_the_error(logistic: Toy) -> None:
    errors = [error(logistic, lr) for lr in (0.08, 0.04, 0.02, 0.01)]
    ratios = np.array(errors[:-1]) / errors[1:]
    assert (np.abs(ratios - 4) < 0.05).all() and errors[-1] > 1e-10


@pytest.mark.parametrize("lr", [0.01, 1.0])
def test_any_step_is_exact_for_squares(lr: float, tmp_path: Path) -> None:
    toy, _ = ridge_problem(tmp_path)
    found = toy.estimate("rps_lje", lr=lr, damping=0.0)
    assert found.report["reconstruction_error"] < 1e-10


@pytest.mark.parametrize("damping", [0.05, None])
def test_it_is_the_influence_function_of_the_logit_at_the_moved_head(damping: float | None, undecayed: Toy) -> None:
    """Written with autograd, without decay: S - Θ'·f_j/n = -(1/n) e_yᵀ ⊗ f_jᵀ (H + δI)⁻¹ g_i."""
    toy = undecayed
    found = toy.estimate("rps_lje", lr=0.3, damping=damping)
    head = head_at_end(toy.run(estimator_named("rps_lje"), "x").features, toy.train, toy.test)
    f, labels = head.train, torch.from_numpy(toy.train.y)

    def risk(flat: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(f @ flat.view(head.theta.shape).T, labels)

    theta = head.theta + 0.3 * torch.autograd.functional.jacobian(risk, head.theta.flatten()).view(head.theta.shape)
    h = torch.autograd.functional.hessian(risk, theta.flatten())
    h = h + (1e-4 * h.diagonal().mean() if damping is None else damping) * torch.eye(len(h), dtype=h.dtype)
    p = torch.softmax(f @ theta.T, 1) - torch.nn.functional.one_hot(labels, 3)
    g = (p[:, :, None] * f[:, None]).flatten(1)
    rows = torch.nn.functional.one_hot(torch.from_numpy(toy.test.y), 3).double()
    target = (rows[:, :, None] * head.test[:, None]).flatten(1)
    influence = -g @ torch.linalg.solve(h, target.T) / len(f)
    constant = (rows * (head.test @ theta.T)).sum(1) / len(f)
    tolerance = 1e-12 if damping else 1e-8 * float(influence.abs().max())
    np.testing.assert_allclose(found.values - constant.numpy(), influence, rtol=0, atol=tolerance)
    dropped = toy.estimate("rps_lje", lr=0.3, damping=damping, drop_constant=True).values
    np.testing.assert_allclose(dropped, influence, rtol=0, atol=tolerance)


def test_dropping_the_constant_keeps_order_and_self_influence(logistic: Toy) -> None:
    whole, dropped = (logistic.estimate("rps_lje", drop_constant=drop) for drop in (False, True))
    shift = whole.values - dropped.values
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), rtol=0, atol=1e-14)
    assert np.abs(shift).max() > 1e-3
    assert np.array_equal(whole.self_influence, dropped.self_influence)  # type: ignore[arg-type]
    assert whole.report["reconstruction_error"] == pytest.approx(dropped.report["reconstruction_error"])


def test_softmax_without_damping_or_decay_is_singular(undecayed: Toy) -> None:
    with pytest.raises(NumericalError, match=r"softmax outputs that all grow alike.*set estimator.damping="):
        undecayed.estimate("rps_lje", damping=0.0)


def test_a_step_that_is_too_long_is_warned_about(undecayed: Toy) -> None:
    for lr, words in ((0.01, False), (50.0, True)):
        estimator = estimator_named("rps_lje", {"lr": lr})
        run = undecayed.run(estimator, "rps_lje")
        estimator.estimate(run)
        assert any("lower estimator.lr" in warning for warning in run.warnings) == words


def test_a_head_far_from_its_minimum_is_warned_about(undecayed: Toy, logistic: Toy) -> None:
    estimator = estimator_named("rps_lje")
    for toy, words in ((undecayed, True), (logistic, False)):
        run = toy.run(estimator, "rps_lje")
        found = estimator.estimate(run)
        assert any("far from a minimum" in warning for warning in run.warnings) == words
        assert (found.report["reconstruction_error"] > 0.1) == words


def test_conjugate_gradients_give_the_same_without_self_influence(
    undecayed: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = undecayed.estimate("rps_lje", damping=0.01).values
    monkeypatch.setattr(head_solvers, "DENSE", 0)
    monkeypatch.setattr(head_solvers, "CG_TOLERANCE", 1e-12)
    found = undecayed.estimate("rps_lje", damping=0.01)
    np.testing.assert_allclose(found.values, dense, rtol=0, atol=1e-9 * np.abs(dense).max())
    assert found.self_influence is None and "a solve of its own" in found.self_influence_note


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"lr": -0.1}, {"damping": -1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"estimator.{name} must be"):
        estimator_named("rps_lje", settings)


def test_decoupled_decay_is_warned_about(tmp_path: Path) -> None:
    for optimizer, words in ((AdamW(lr=0.01), True), (AdamW(lr=0.01, weight_decay=0.0), False)):
        toy = toys.train(tmp_path, toys.table(), MLP(width=3), optimizer)
        estimator = estimator_named("rps_lje")
        run = toy.run(estimator, "rps_lje")
        estimator.estimate(run)
        assert any("decoupled weight decay" in warning for warning in run.warnings) == words


@pytest.mark.parametrize("name", ["rps_lje", "if_last_layer"])
def test_a_few_test_instances_at_a_time_give_the_same(
    name: str, undecayed: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = undecayed.estimate(name, damping=0.01)
    calls: list[int] = []
    solve = head_solvers.Dense.solve

    def counted(self: head_solvers.Dense, right: torch.Tensor) -> torch.Tensor:
        calls.append(len(right))
        return solve(self, right)

    monkeypatch.setattr(head_solvers.Dense, "solve", counted)
    monkeypatch.setattr("influx.engines.heads.HELD_BYTES", 8 * 8 * 3 * 4 * 3)  # three of them
    pieces = undecayed.estimate(name, damping=0.01)
    assert calls == [3, 1]
    np.testing.assert_allclose(pieces.values, together.values, rtol=0, atol=1e-12)
    assert pieces.report["residual"] < 1e-10
