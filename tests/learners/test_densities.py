"""Normal densities: at the optimum of every weighting, and leave-one-out as in closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.learners.densities.gaussian import Gaussian
from influx.learners.densities.learner import DensityLearner
from influx.learners.densities.ppca import PPCA
from influx.oracles.generative import DELTA, FAMILIES, Shape, log_density, refitted, wine
from influx.oracles.toys import learned
from influx.problem import Design, Outcomes


def retrained(learner: DensityLearner, data: Any, weights: np.ndarray, norm: Any) -> tuple[Outcomes, Outcomes]:
    zeros = np.zeros(len(weights), np.int64)
    return learner.retrain(data, 0, Design(weights=weights, init=zeros, order=zeros, loss_norm=norm))


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> tuple[DensityLearner, Shape]:
    return FAMILIES[request.param]


@pytest.mark.parametrize("norm", ["full", "subset"])
def test_every_weighting_is_refitted(norm: str, family: tuple[DensityLearner, Shape]) -> None:
    learner, shape = family
    data, n, rng = wine(), 20, np.random.default_rng(0)
    weights = np.concatenate([np.ones((1, n)), 1 - np.eye(n)[:2], rng.integers(0, 4, (5, n)), rng.random((5, n))])
    train, test = retrained(learner, data, weights, norm)
    for row, w in enumerate(weights):
        fit = refitted(shape, data.train.x.astype(float), w, DELTA * (n / w.sum() if norm == "full" else 1))
        assert np.allclose(-train.loss[row], log_density(data.train.x.astype(float), *fit), rtol=1e-10)
        assert np.allclose(-test.loss[row], log_density(data.test.x.astype(float), *fit), rtol=1e-10)
        assert np.allclose(test.margin[row], -test.loss[row], rtol=1e-6)


@pytest.mark.parametrize("latent", [None, 2])
def test_a_refit_is_a_stationary_point_of_its_objective(latent: int | None) -> None:
    """By autograd, in the mean and a factor of the covariance, or in loadings and noise."""
    data, rng = wine(), np.random.default_rng(0)
    weights = rng.random(20)
    mean, covariance = refitted(
        FAMILIES["principal components" if latent else "full covariance"][1],
        data.train.x.astype(float),
        weights,
        DELTA * 20 / weights.sum(),
    )
    values, vectors = np.linalg.eigh(covariance)
    noise = values[: -latent if latent else None].mean() if latent else 0.0
    factor = vectors[:, -latent:] * np.sqrt(values[-latent:] - noise) if latent else np.linalg.cholesky(covariance)
    parameters = [torch.tensor(a, requires_grad=True) for a in (mean, factor, np.array(noise))]
    spread = parameters[1] @ parameters[1].T + parameters[2] * torch.eye(len(mean), dtype=torch.float64)
    off, inverse = torch.tensor(data.train.x).double() - parameters[0], torch.linalg.inv(spread)
    risk = 0.5 * ((off @ inverse) * off).sum(1) + 0.5 * torch.linalg.slogdet(spread)[1]
    (risk @ torch.tensor(weights) / 20 + 0.5 * DELTA * inverse.trace()).backward()
    slopes = [p.grad for p in parameters[: 3 if latent else 2]]
    assert max(float(slope.abs().max()) for slope in slopes if slope is not None) < 1e-10


def test_leave_one_out_of_unit_variance_in_closed_form(tmp_path: Path) -> None:
    toy = learned(tmp_path, wine(), Gaussian(covariance="unit"))
    distance = np.square(toy.train.x - toy.train.x.astype(float).mean(axis=0)).sum(axis=1)
    found = toy.estimate("loo", ceiling_budget=0, renormalise=True).self_influence
    assert found is not None
    assert np.allclose(found, distance / 2 * ((20 / 19) ** 2 - 1), rtol=1e-10)


def test_a_model_without_instances_is_standard_normal(family: tuple[DensityLearner, Shape]) -> None:
    data, learner = wine(), family[0]
    weights = np.stack([np.zeros(20), np.ones(20)])
    found = retrained(learner, data, weights, "subset")[1].loss
    unit = log_density(data.test.x.astype(float), np.zeros(13), np.eye(13))
    assert np.allclose(-found[0], unit)
    assert np.allclose(found[1], retrained(learner, data, weights[1:], "full")[1].loss[0])


def test_samples_have_the_moments_of_the_density(tmp_path: Path, family: tuple[DensityLearner, Shape]) -> None:
    """Of points whose mean is 0 and whose covariance is the identity."""
    toy = learned(tmp_path, wine(), family[0])
    points = np.sqrt(13) * torch.cat([torch.eye(13), -torch.eye(13)]).double()
    rows = toy.fitted.sample(points).numpy()
    mean, covariance = refitted(family[1], toy.train.x.astype(float), np.ones(20), DELTA)
    assert np.allclose(rows.mean(axis=0), mean) and np.allclose(np.cov(rows.T, bias=True), covariance)


def test_images_are_flat_and_many_features_are_taken_one_model_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = wine()
    square = replace(
        data,
        train=replace(data.train, x=data.train.x[:, :12].reshape(20, 1, 3, 4)),
        test=replace(data.test, x=data.test.x[:, :12].reshape(4, 1, 3, 4)),
    )
    weights = np.random.default_rng(0).random((3, 20))
    expected = retrained(Gaussian(), square, weights, "subset")[1].loss
    monkeypatch.setattr("influx.learners.densities.normals.OUTER_BYTES", 0)
    monkeypatch.setattr("influx.learners.densities.normals.WHITENED_BYTES", 0)
    monkeypatch.setattr("influx.learners.densities.learner.CHUNK_BYTES", 0)
    assert np.allclose(retrained(Gaussian(), square, weights, "subset")[1].loss, expected, rtol=1e-11)


@pytest.mark.parametrize(
    "learner", [Gaussian(penalty=0.0), Gaussian(penalty=0.0, covariance="diagonal"), PPCA(penalty=0.0, latent=2)]
)
def test_no_variance_is_refused(learner: DensityLearner) -> None:
    weights = np.zeros((1, 20), np.uint8)
    weights[0, :2] = 1
    if isinstance(learner, Gaussian) and learner.covariance == "diagonal":
        weights[0, 1] = 0
    with pytest.raises(NumericalError, match=r"model=\w+ .*set model\.penalty above 0"):
        retrained(learner, wine(), weights, "subset")


@pytest.mark.parametrize("covariance", ["full", "diagonal", "spherical"])
def test_units_of_features_do_not_matter(covariance: str) -> None:
    data = wine()
    units = np.array([1e6, 1e-3, *np.ones(11)])
    unlike = replace(
        data,
        train=replace(data.train, x=data.train.x * units + 1e3),
        test=replace(data.test, x=data.test.x * units + 1e3),
    )
    learner = Gaussian(penalty=0.0, covariance=covariance)
    ones = np.ones((1, 20), np.uint8)
    found, same = (retrained(learner, each, ones, "subset")[1].loss for each in (unlike, data))
    if covariance != "spherical":
        assert np.allclose(found - np.log(units).sum(), same, rtol=1e-6)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_constant_is_refused_whatever_its_size(covariance: str) -> None:
    data = wine()
    data.train.x[:, 2] = 123456.7
    with pytest.raises(NumericalError, match=r"above 0, for example 0\.01"):
        retrained(Gaussian(penalty=0.0, covariance=covariance), data, np.ones((1, 20), np.uint8), "subset")


def test_advice_is_above_the_penalty_that_is_set() -> None:
    data = wine()
    data.train.x[:, 0] *= 1e9
    with pytest.raises(NumericalError, match=r"above 0\.01, for example 0\.1"):
        retrained(PPCA(latent=2), data, np.ones((1, 20), np.uint8), "subset")


def test_pace_is_of_models_that_exist(tmp_path: Path) -> None:
    toy = learned(tmp_path, wine(), Gaussian(penalty=0.0))
    assert toy.problem.learner.pace(toy.problem).model > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "settings", "named"),
    [
        (Gaussian, {"covariance": "diag"}, "did you mean 'diagonal'"),
        (Gaussian, {"penalty": -1.0}, r"model\.penalty"),
        (Gaussian, {"penalty": float("nan")}, r"model\.penalty"),
        (PPCA, {"latent": 0}, r"model\.latent"),
    ],
)
def test_bad_settings_are_refused_by_name(make: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make(**settings)


def test_as_many_latent_dimensions_as_features_are_refused() -> None:
    with pytest.raises(IncompatibleError, match=r"model\.latent must be below the 13 features of dataset=wine"):
        PPCA(latent=13).check(wine())
