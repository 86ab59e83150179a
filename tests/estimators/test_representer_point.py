"""Representer points add up to the refitted head's logits; what a refit that did not converge leaves unexplained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.engines import head_solvers
from influx.engines.refits import refit
from influx.engines.representers import surrogate
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import plain, toys
from influx.oracles.toys import Toy, estimator_named

PENALTY = 0.02


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(n_train=15), MLP(width=4))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("line"), toys.table("regression"), MLP(width=4))


def estimated(toy: Toy, **settings: Any) -> tuple[Influence, list[str]]:
    estimator = estimator_named("representer_point", {"penalty": PENALTY} | settings)
    run = toy.run(estimator, "representer_point")
    return estimator.estimate(run), run.warnings


def refitted(toy: Toy, bias: str = "augment", targets: str = "labels") -> tuple[Any, torch.Tensor]:
    run = toy.run(estimator_named("representer_point"), "representer_point")
    start = surrogate(run, targets, bias, PENALTY)  # type: ignore[arg-type]
    theta, _, _ = refit(start.objective, 1e-8, 100)
    return replace(start, theta=theta), theta


@pytest.mark.parametrize("targets", ["labels", "model_probs"])
@pytest.mark.parametrize("bias", ["augment", "free", "none"])
def test_values_add_up_to_the_refitted_logits(bias: str, targets: str, toy: Toy) -> None:
    fitted, theta = refitted(toy, bias, targets)
    logits = fitted.test @ theta.T
    if bias == "free":
        logits = logits - theta[:, -1]
        assert float(fitted.alpha(PENALTY).sum(0).abs().max()) < 1e-10
    expected = logits[torch.arange(len(toy.test)), torch.from_numpy(toy.test.y)]
    found, _ = estimated(toy, bias=bias, targets=targets)
    np.testing.assert_allclose(found.values.sum(axis=0), expected, rtol=0, atol=1e-10)
    assert found.report["reconstruction_error"] < 1e-10
    table = found.tables["decomposition"]
    assert table["test_id"].tolist() == toy.test.ids.tolist()
    np.testing.assert_allclose(table["explained"], table["sum_over_training"], atol=1e-10)


@pytest.mark.parametrize("bias", ["augment", "free", "none"])
def test_values_add_up_to_signed_predictions_in_regression(bias: str, line: Toy) -> None:
    fitted, theta = refitted(line, bias)
    prediction = fitted.test @ theta.T
    explained = prediction[:, 0].numpy() - (float(theta[0, -1]) if bias == "free" else 0.0)
    sign = np.where(line.test.y >= prediction[:, 0].numpy(), 1, -1)
    found, _ = estimated(line, bias=bias)
    np.testing.assert_allclose(found.values.sum(axis=0), sign * explained, rtol=0, atol=1e-10)


def test_e1_penalty_is_squared(toy: Toy) -> None:
    """Survey Eq. (37) prints λ/2 |θ|; only λ/2 |θ|² has θ = Σ α_i f_i, Eq. (44), at its optimum."""
    fitted, theta = refitted(toy)
    f, alpha = fitted.objective.f, fitted.alpha(PENALTY)
    torch.testing.assert_close(alpha.T @ f, theta, rtol=0, atol=1e-12)
    x = torch.nn.Parameter(theta.clone())
    risk = torch.nn.functional.cross_entropy(f @ x.T, torch.from_numpy(toy.train.y))
    squared, printed = (
        torch.autograd.grad(risk + PENALTY / 2 * term, x, retain_graph=True)[0].norm()
        for term in (x.square().sum(), x.norm())
    )
    assert float(squared) < 1e-12 < 1e-3 < float(printed)
    length = float(theta.norm())  # the printed form would make Σ α_i f_i too large by |θ|
    assert abs(length - 1) > 0.1
    torch.testing.assert_close(-fitted.objective.mean_gradient(f @ theta.T) / PENALTY, theta, rtol=0, atol=1e-12)


def test_e11_the_sum_is_the_logit_and_not_the_fall_of_the_risk(toy: Toy) -> None:
    """Survey Eq. (45)-(47); and an appended 1 may be decomposed only if its weight is penalised too."""
    found, _ = estimated(toy)
    fitted, theta = refitted(toy)
    logits = fitted.test @ theta.T
    rows, labels = torch.arange(len(toy.test)), torch.from_numpy(toy.test.y)
    total = found.values.sum(axis=0)
    np.testing.assert_allclose(total, logits[rows, labels], rtol=0, atol=1e-10)
    fall = np.log(3) - torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    assert np.abs(total - fall).max() > 0.1
    free, theta = refitted(toy, "free")
    alpha, f = free.alpha(PENALTY), free.objective.f
    wrong = (alpha[:, labels] * (f @ free.test.T)).sum(0) - (free.test @ theta.T)[rows, labels]
    assert float(wrong.abs().max()) > 1e-3  # the unpenalised bias is no sum over training instances


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_an_unconverged_refit_misses_what_its_gradient_says(steps: int, toy: Toy) -> None:
    run = toy.run(estimator_named("representer_point"), "representer_point")
    start = surrogate(run, "labels", "augment", PENALTY)
    theta, gradient, taken = refit(start.objective, 1e-300, steps)
    assert taken == steps
    labels = torch.from_numpy(toy.test.y)
    rows = torch.arange(len(labels))
    missing = -(start.test @ gradient.T)[rows, labels] / PENALTY
    found, warnings = estimated(toy, max_steps=steps, tolerance=1e-300, allow_nonstationary=True)
    total = found.values.sum(axis=0) - (start.test @ theta.T)[rows, labels].numpy()
    np.testing.assert_allclose(total, missing, rtol=0, atol=1e-10)
    assert found.report["explained_error_bar"] == pytest.approx(float(missing.abs().max()), rel=1e-9)
    assert found.report["reconstruction_error"] == pytest.approx(float(missing.abs().max()), abs=1e-10)
    assert any("unexplained" in warning for warning in warnings)


def test_an_unconverged_refit_is_refused_unless_allowed(toy: Toy) -> None:
    with pytest.raises(NumericalError, match=r"set estimator.max_steps=100, or estimator.allow_nonstationary=true"):
        estimated(toy, max_steps=1)


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("inf")])
def test_without_a_penalty_there_is_no_decomposition(penalty: float) -> None:
    with pytest.raises(ConfigError, match=r"no sum over training instances; set for example estimator.penalty=0.006"):
        estimator_named("representer_point", {"penalty": penalty})


@pytest.mark.parametrize("settings", [{"tolerance": 0.0}, {"max_steps": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"estimator.{name} must be .*default"):
        estimator_named("representer_point", settings)


def test_conjugate_gradients_reach_the_same_refit(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = {bias: estimated(toy, bias=bias)[0].values for bias in ("augment", "free")}
    monkeypatch.setattr(head_solvers, "STEP_DENSE", 0)
    for bias, expected in dense.items():
        found, _ = estimated(toy, bias=bias, tolerance=1e-12)
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_own_labels_are_supported_and_the_other_classes_opposed(toy: Toy) -> None:
    """α_i[y_i] = (1 - p)/(λ n) > 0 and α_i[c] = -p_c/(λ n) < 0: signs follow those of the features' products."""
    found, _ = estimated(toy)
    f, g = (plain.with_ones(plain.features(toy.module(), toy.tensors(s)[0])) for s in (toy.train, toy.test))
    same = toy.train.y[:, None] == toy.test.y[None]
    assert (np.sign(found.values) == np.sign(f @ g.T) * np.where(same, 1, -1)).all()
    assert (found.self_influence > 0).all()  # type: ignore[operator]


def test_positive_is_a_proponent_in_regression(line: Toy) -> None:
    """A positive value moves the prediction towards the target."""
    fitted, theta = refitted(line)
    found, _ = estimated(line)
    moved = (fitted.alpha(PENALTY) * fitted.f @ fitted.g.T).numpy()  # what i adds to prediction j
    wanted = line.test.y - (fitted.test @ theta.T)[:, 0].numpy()
    assert (np.sign(found.values) == np.sign(moved * wanted)).all()
    assert (found.self_influence >= 0).all()  # type: ignore[operator]


def test_two_classes_mirror_each_other(tmp_path: Path) -> None:
    data = toys.table(n_train=12)
    keep = [np.flatnonzero(s.y < 2) for s in (data.train, data.test)]
    data = replace(data, train=data.train.take(keep[0]), test=data.test.take(keep[1]), classes=("a", "b"))
    found, _ = estimated(toys.train(tmp_path, data, MLP(width=4)))
    alpha = found.tables["representer_values"]
    np.testing.assert_allclose(alpha["alpha_a"], -alpha["alpha_b"], rtol=1e-10)
    sign = np.where(alpha["alpha_a"] > 0, 0, 1)
    assert (sign == data.train.y).all()


def test_imitating_the_model_agrees_with_it(toy: Toy) -> None:
    imitating, _ = estimated(toy, targets="model_probs", penalty=1e-6, tolerance=1e-12)
    assert imitating.report["same_prediction"] == 1.0 and imitating.report["mean_probability_change"] < 1e-3
    faint, warnings = estimated(toy, penalty=1e4)
    assert faint.report["mean_probability_change"] > 0.05
    assert any("another model is explained" in w for w in warnings) == (faint.report["same_prediction"] < 0.9)


def test_a_free_bias_needs_every_class(toy: Toy) -> None:
    data = toy.problem.data
    fewer = replace(data, train=data.train.take(np.flatnonzero(data.train.y != 2)))
    with pytest.raises(IncompatibleError, match=r"one class has none; set estimator.bias=augment"):
        estimated(toy.with_data(fewer), bias="free")
    assert np.isfinite(estimated(toy.with_data(fewer))[0].values).all()


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
def test_wide_features_take_few_steps(scale: float, tmp_path: Path) -> None:
    data = toys.table(n_train=40, features=5)
    sides = {side: replace(split, x=split.x * scale) for side, split in (("train", data.train), ("test", data.test))}
    toy = toys.train(tmp_path, data, Linear(), SGD(lr=0.1), epochs=2).with_data(replace(data, **sides))
    report = toy.estimate("representer_point").report
    assert report["newton_steps"] < 60 and report["gradient_max"] <= 1e-8
