"""Last-layer influence: the exact one for a linear model, the singular softmax, what the layer explains."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from influx.engines import head_solvers
from influx.errors import ConfigError, NumericalError
from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.influence_functions import differences, leave_one_out, logistic_problem, ridge_problem
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def undecayed(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=3), SGD(lr=0.2))


@pytest.mark.parametrize("problem", [ridge_problem, logistic_problem])
@pytest.mark.parametrize("damping", [0.0, 0.4])
def test_it_is_the_exact_influence_function_of_a_linear_model(problem, damping: float, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    toy, _ = problem(tmp_path)
    found, exact = (toy.estimate(name, damping=damping) for name in ("if_last_layer", "if_exact"))
    np.testing.assert_allclose(found.values, exact.values, rtol=0, atol=1e-10 * np.abs(exact.values).max())
    np.testing.assert_allclose(found.self_influence, exact.self_influence, rtol=1e-10)
    assert found.report["last_layer_share"] == pytest.approx(1.0)


def test_conjugate_gradients_give_the_same_without_self_influence(
    undecayed: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = undecayed.estimate("if_last_layer").values
    monkeypatch.setattr(head_solvers, "DENSE", 0)
    monkeypatch.setattr(head_solvers, "CG_TOLERANCE", 1e-12)
    found = undecayed.estimate("if_last_layer")
    np.testing.assert_allclose(found.values, dense, rtol=0, atol=1e-9 * np.abs(dense).max())
    assert found.self_influence is None and "a solve of its own" in found.self_influence_note


@pytest.mark.parametrize("dense", [8000, 0])
def test_softmax_without_damping_or_decay_is_singular(
    dense: int, undecayed: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_solvers, "DENSE", dense)
    with pytest.raises(NumericalError, match="softmax outputs that all grow alike") as refused:
        undecayed.estimate("if_last_layer", damping=0.0)
    said = str(refused.value)
    enough = re.search(r"set estimator.damping=(\S+) or null", said)
    assert enough and "\n" not in said
    assert np.isfinite(undecayed.estimate("if_last_layer", damping=float(enough[1])).values).all()


def test_a_damping_lost_to_rounding_is_singular_too(undecayed: Toy) -> None:
    with pytest.raises(NumericalError, match="must be positive definite"):
        undecayed.estimate("if_last_layer", damping=1e-18)


def test_the_automatic_damping_is_a_thousandth_of_the_mean_eigenvalue(undecayed: Toy) -> None:
    report = undecayed.estimate("if_last_layer").report
    assert report["damping"] == pytest.approx(1e-3 * report["mean_eigenvalue"], rel=1e-12)
    assert report["lambda_min"] < 1e-12 < report["damping"] < report["lambda_max"]
    assert report["residual"] < 1e-10


def test_e15_sign_and_scale_are_those_of_removal(tmp_path: Path) -> None:
    """Published scores are -gᵀH⁻¹g without 1/n, the effect of upweighting; ours is that of a weight going to 0."""
    toy, refit = logistic_problem(tmp_path)
    found, n = toy.estimate("if_last_layer", damping=0.0).values, len(toy.train)
    slopes = differences(refit, n)
    np.testing.assert_allclose(found, slopes, rtol=0, atol=1e-6 * np.abs(slopes).max())
    published = -n * found
    truth = leave_one_out(refit, n)
    assert (found * truth).sum() > 0 > (published * truth).sum()
    assert 0.7 < (found * truth).sum() / (truth**2).sum() < 1.4


def test_values_add_up_to_the_decay_at_an_optimum(tmp_path: Path) -> None:
    """Σ_i g_i / n = -wd θ there, so that the column sums are -wd g_jᵀ H_r⁻¹ θ; both sides from numpy."""
    toy, _ = ridge_problem(tmp_path)
    x, t = (np.c_[s.x, np.ones(len(s))].astype(np.float64) for s in (toy.train, toy.test))
    theta = np.concatenate([p.detach().numpy().ravel() for p in toy.module().parameters()])
    g = (t @ theta - toy.test.y)[:, None] * t
    expected = -0.1 * g @ np.linalg.solve(x.T @ x / len(x) + 0.1 * np.eye(len(theta)), theta)
    found = toy.estimate("if_last_layer", damping=0.0).values.sum(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


def test_the_share_of_the_last_layer_is_measured_and_a_small_one_warned_about(tmp_path: Path) -> None:
    for width, depth in ((3, 1), (30, 5)):
        toy = toys.train(tmp_path, toys.table(features=40), MLP(width=width, depth=depth, activation="relu"))
        estimator = estimator_named("if_last_layer")
        run = toy.run(estimator, "if_last_layer")
        found = estimator.estimate(run)
        norms = [
            np.sqrt(toy.run(estimator, "x").gradients.at(run.final, select).squares(toy.train).numpy())  # type: ignore[arg-type]
            for select in ("head", "all")
        ]
        expected = float((norms[0] / norms[1]).mean())
        assert found.report["last_layer_share"] == pytest.approx(expected, rel=1e-6)
        assert any("norm is in the last layer" in w for w in run.warnings) == (expected < 0.3)


def test_a_training_that_has_not_converged_is_warned_about(undecayed: Toy, tmp_path: Path) -> None:
    estimator = estimator_named("if_last_layer")
    for toy, words in ((undecayed, True), (logistic_problem(tmp_path)[0], False)):
        run = toy.run(estimator, "if_last_layer")
        estimator.estimate(run)
        assert any("not at a minimum" in warning for warning in run.warnings) == words


@pytest.mark.parametrize("damping", [-1.0, float("inf"), float("nan")])
def test_a_damping_out_of_range_is_refused(damping: float) -> None:
    with pytest.raises(ConfigError, match=r"estimator.damping must be finite and not negative.*use null"):
        estimator_named("if_last_layer", {"damping": damping})


def test_features_that_vanish_are_refused_in_one_sentence(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression"), Linear(bias=False), SGD(lr=0.1))
    data = toy.problem.data
    toy.train.x[:] = 0
    for damping in (None, 0.0):  # of which the automatic one is no way out either
        with pytest.raises(NumericalError, match=r"set estimator.damping=1e-06$"):
            toy.with_data(data).estimate("if_last_layer", damping=damping)
