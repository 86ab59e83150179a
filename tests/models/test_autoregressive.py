"""Autoregressive densities: a triangle of dependences, normal densities in closed form, samples that invert."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from influx.errors import ConfigError
from influx.models.autoregressive import Autoregressive, AutoregressiveDensity
from influx.oracles.generative import log_density

D = 4


def made(model: Autoregressive, data: Any) -> AutoregressiveDensity:
    torch.manual_seed(0)
    network = model.build(data).double()
    assert isinstance(network, AutoregressiveDensity)
    return network


def rows_of(data: Any, conditional: bool = False) -> Tensor:
    rows = torch.from_numpy(data.train.x).double().flatten(1)
    return torch.cat([rows, torch.eye(3).double()[data.train.y]], 1) if conditional else rows


@pytest.mark.parametrize("width", [[], [3], [9, 5]])
def test_a_feature_depends_on_those_before_it_alone(width: list[int], make_data: Any) -> None:
    network = made(Autoregressive(width=width), make_data((D,)))
    one = torch.from_numpy(np.random.default_rng(0).normal(size=D))
    both = torch.autograd.functional.jacobian(lambda x: torch.stack(network._conditionals(x[None]), 1)[0], one)
    for slopes in both:
        assert torch.equal(slopes, slopes.tril(-1)) and (slopes.tril(-1) != 0).sum() == D * (D - 1) / 2


def test_linear_means_and_constant_deviations_are_a_normal_density(make_data: Any) -> None:
    """x = B x + b + s ∘ ε, so that x - mean = (I - B)⁻¹ s ∘ ε."""
    data = make_data((D,))
    network, x = made(Autoregressive(width=[], least_scale=0.3), data), rows_of(data)
    with torch.no_grad():
        network.around.weight[D:] = 0
    lower = (network.around.weight * network.around.allowed)[:D]
    inverse = torch.linalg.inv(torch.eye(D).double() - lower)
    scale = 0.3 + torch.log(1 + torch.exp(network.around.bias[D:]))
    root = inverse * scale
    mean, covariance = (inverse @ network.around.bias[:D]).detach().numpy(), (root @ root.T).detach().numpy()
    assert np.allclose(-network(x)[:, 0].detach().numpy(), log_density(x.numpy(), mean, covariance), rtol=1e-12)


def test_densities_of_one_feature_integrate_to_one(make_data: Any) -> None:
    network = made(Autoregressive(width=[3], conditional=True), make_data((1,)))
    grid = torch.linspace(-30, 30, 6001).double()
    for label in torch.eye(3).double():
        density = torch.exp(-network(torch.cat([grid[:, None], label.expand(len(grid), -1)], 1))[:, 0])
        assert float(torch.trapezoid(density, grid).detach()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("conditional", [False, True])
def test_samples_are_what_their_numbers_make_of_them(conditional: bool, make_data: Any) -> None:
    data = replace(make_data((1, 2, 3)), task="density")
    network = made(Autoregressive(width=[8], conditional=conditional), data)
    normals = torch.from_numpy(np.random.default_rng(0).normal(size=(6, network.sample_width)))
    labels = torch.from_numpy(data.train.y) if conditional else None
    rows = network.sample(normals, labels)
    assert rows.shape == (6, 1, 2, 3)
    known = rows_of(replace(data, train=replace(data.train, x=rows.numpy())), conditional)
    mean, scale = network._conditionals(known)
    assert torch.allclose((rows.flatten(1) - mean) / scale, normals)


def test_labels_reach_every_feature(make_data: Any) -> None:
    network = made(Autoregressive(width=[6], conditional=True), make_data((D,)))
    x = torch.zeros(3, D + 3).double()
    x[:, D:] = torch.eye(3)
    mean, scale = network._conditionals(x)
    assert all(len(set(column.tolist())) == 3 for column in torch.cat([mean, scale], 1).T)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"width": 8}, "model.width"),
        ({"width": [-1]}, "model.width"),
        ({"activation": "swish"}, "model.activation"),
        ({"least_scale": 0.0}, "model.least_scale"),
        ({"conditional": None}, "model.conditional"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named}.* got .*; "):
        Autoregressive(**settings)
