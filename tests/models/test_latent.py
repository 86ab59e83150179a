"""Variational autoencoders against closed forms: linear ones, exact posteriors, and what they are made of."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.inputs import attached_to, evaluation_tensors
from influx.models.conv_vae import ConvVAE
from influx.models.latent import LatentDensity
from influx.models.vae import VAE
from influx.oracles.generative import log_density

K, D = 2, 5


def made(model: Any, data: Any) -> LatentDensity:
    torch.manual_seed(0)
    network = model.build(data).double()
    assert isinstance(network, LatentDensity)
    return network


def draws(n: int, count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n, count * K)))


def rows_of(data: Any) -> Tensor:
    return torch.from_numpy(data.train.x).double().flatten(1)


def linear(data: Any, **settings: Any) -> LatentDensity:
    return made(VAE(width=[], latent=K, **settings), data)


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_learned"])
def test_gradients_of_a_linear_autoencoder_are_those_of_its_bound_in_closed_form(
    likelihood: str, make_data: Any
) -> None:
    """With draws whose mean is 0 and whose covariance is the identity, an average over them is the expectation."""
    data = make_data((D,))
    network, x = linear(data, likelihood=likelihood, scale=0.7, beta=1.3), rows_of(data)
    axes = math.sqrt(K) * torch.cat([torch.eye(K), -torch.eye(K)]).double()
    found = network(torch.cat([x, axes.flatten().expand(len(x), -1)], 1))

    (a, offset), (w, centre) = (list(part.parameters()) for part in (network.encoder, network.decoder))  # type: ignore[attr-defined]
    mean, log_variance = (x @ a.T + offset).chunk(2, 1)
    moved = network.observed.moved  # type: ignore[attr-defined]
    scale = torch.tensor(0.7, dtype=torch.float64)
    if moved is not None:
        scale = 0.05 + torch.log(1 + (math.exp(0.65) - 1) * torch.exp(moved / math.sqrt(D)))
    residual = ((x - mean @ w.T - centre) ** 2).sum(1) + log_variance.exp() @ (w**2).sum(0)
    likeness = residual / (2 * scale**2) + D * torch.log(scale) + D / 2 * math.log(2 * math.pi)
    expected = likeness + 1.3 * 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(1)
    assert torch.allclose(found[:, 0], expected, rtol=1e-12)
    parameters = list(network.parameters())
    ours, theirs = (torch.autograd.grad(risk.sum(), parameters) for risk in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [0.051, 0.06, 0.08, 0.3, 40.0])
def test_a_learned_deviation_starts_where_it_is_set(scale: float, make_data: Any) -> None:
    data = make_data((D,))
    x = torch.cat([rows_of(data), draws(6, 3)], 1)
    given, learned = (linear(data, likelihood=which, scale=scale)(x) for which in ("gaussian", "gaussian_learned"))
    assert torch.allclose(given, learned, rtol=1e-9)


def test_with_the_exact_posterior_the_importance_bound_is_the_density_whatever_the_draws(make_data: Any) -> None:
    data = make_data((D,))
    network, x = linear(data, bound="importance", scale=0.6), rows_of(data)
    loadings = torch.linalg.qr(torch.from_numpy(np.random.default_rng(1).normal(size=(D, K))))[0] * torch.tensor(
        [2.0, 0.5]
    )
    centre, precision = torch.arange(D).double(), (loadings**2).sum(0) / 0.36 + 1
    (encoder,), (decoder,) = (
        [m for m in part.modules() if isinstance(m, nn.Linear)] for part in (network.encoder, network.decoder)
    )  # type: ignore[attr-defined]
    with torch.no_grad():
        decoder.weight.copy_(loadings)
        decoder.bias.copy_(centre)
        to_mean = loadings.T / 0.36 / precision[:, None]
        encoder.weight.copy_(torch.cat([to_mean, torch.zeros(K, D)]))
        encoder.bias.copy_(torch.cat([-to_mean @ centre, -precision.log()]))
    covariance = loadings @ loadings.T + 0.36 * torch.eye(D).double()
    exact = torch.from_numpy(log_density(x.numpy(), centre.numpy(), covariance.numpy()))
    for count in (1, 7):
        found = network(torch.cat([x, draws(len(x), count)], 1))[:, 0]
        assert torch.allclose(found, -exact, rtol=1e-12)
    bound = linear(data, scale=0.6)
    bound.load_state_dict(network.state_dict())
    many = bound(torch.cat([x, draws(len(x), 200)], 1))[:, 0]
    assert (many + exact).abs().max() < 0.3  # the bound is tight there too, up to its draws


def test_the_importance_bound_is_between_the_bound_of_its_draws_and_the_density(make_data: Any) -> None:
    data = make_data((D,))
    network = linear(data, bound="importance")
    x = torch.cat([rows_of(data), draws(6, 64)], 1)
    each = torch.cat([network(torch.cat([rows_of(data), draws(6, 64)[:, K * r : K * r + K]], 1)) for r in range(64)], 1)
    assert torch.allclose(network(x)[:, 0], -(torch.logsumexp(-each, 1) - math.log(64)))
    assert (network(x)[:, 0] <= each.mean(1)).all()


@pytest.mark.parametrize("model", [VAE(width=[7], latent=K), VAE(latent=K, conditional=True, likelihood="bernoulli")])
def test_the_risk_is_the_mean_over_draws(model: VAE, make_data: Any) -> None:
    data = make_data((D,))
    within = replace(data.train, x=1 / (1 + np.exp(-data.train.x)))  # from 0 to 1
    data = replace(data, train=within, test=within)
    network, labels = made(model, data), torch.eye(3).double()[data.train.y]
    known = torch.cat([rows_of(data), labels], 1) if model.conditional else rows_of(data)
    noise = draws(6, 4)
    each = [network(torch.cat([known, part], 1)) for part in noise.split(K, 1)]
    assert torch.allclose(network(torch.cat([known, noise], 1)), torch.stack(each).mean(0), rtol=1e-12)


def test_beta_weighs_the_divergence(make_data: Any) -> None:
    data = make_data((D,))
    x = torch.cat([rows_of(data), draws(6, 2)], 1)
    risks = [linear(data, beta=beta)(x) for beta in (0.0, 1.0, 3.0)]
    assert torch.allclose(risks[2] - risks[0], 3 * (risks[1] - risks[0])) and (risks[1] > risks[0]).all()


def test_a_bernoulli_likelihood_is_cross_entropy(make_data: Any) -> None:
    data = make_data((D,))
    binary = replace(data.train, x=(data.train.x > 0).astype(np.float32))
    data = replace(data, train=binary, test=binary)
    network, x = linear(data, likelihood="bernoulli", beta=0.0), rows_of(data)
    p = network.reconstruct(x).detach()
    found = network(torch.cat([x, torch.zeros(6, K).double()], 1))[:, 0]
    assert torch.allclose(found, -(x * p.log() + (1 - x) * (1 - p).log()).sum(1))


MODELS = [
    VAE(width=[6], latent=K, conditional=True),
    VAE(width=[6, 4], latent=K, bound="importance", likelihood="gaussian_learned"),
    ConvVAE(channels=[3, 4], latent=K, conditional=True),
    ConvVAE(channels=[3], latent=K, likelihood="gaussian_learned"),
]


@pytest.mark.parametrize("model", MODELS)
def test_shapes_are_those_of_the_data(model: Any, make_data: Any) -> None:
    data = replace(make_data((2, 5, 7)), task="density")
    network = made(model, data)
    x, _ = evaluation_tensors(data.train, attached_to(model, data, 0), torch.float64, "cpu")
    assert network(x).shape == (6, 1) and network.reconstruct(x).shape == (6, 2, 5, 7)
    labels = torch.tensor([0, 1, 2]) if model.conditional else None
    assert network.sample(torch.zeros(3, network.sample_width).double(), labels).shape == (3, 2, 5, 7)


@pytest.mark.parametrize("model", MODELS)
def test_gradients_of_instances_in_one_program_are_those_of_each(model: Any, make_data: Any) -> None:
    data = replace(make_data((1, 4, 4)), task="density")
    network = made(model, data)
    x, _ = evaluation_tensors(data.train.take(slice(0, 3)), attached_to(model, data, 0), torch.float64, "cpu")
    parameters = dict(network.named_parameters())
    together = vmap(grad(lambda p, one: functional_call(network, p, (one[None],)).sum()), in_dims=(None, 0))(
        {k: p.detach() for k, p in parameters.items()}, x
    )
    for row, one in enumerate(x):
        alone = torch.autograd.grad(network(one[None]).sum(), list(parameters.values()))
        for name, expected in zip(parameters, alone, strict=True):
            assert torch.allclose(together[name][row], expected, rtol=1e-9, atol=1e-12)


def test_a_sample_reads_its_label(make_data: Any) -> None:
    network = made(VAE(latent=K, conditional=True), make_data((D,)))
    same = torch.zeros(2, K).double()
    one, other = network.sample(same, torch.tensor([0, 2]))
    assert not torch.allclose(one, other)
    with pytest.raises(ValueError, match="pass class indices"):
        network.sample(same)


def test_draws_that_lack_are_refused(make_data: Any) -> None:
    data = make_data((D,))
    for count in (0, 1, K + 1):
        with pytest.raises(ValueError, match="latent draws of 2 numbers behind the 5"):
            linear(data)(torch.zeros(1, D + count).double())


@pytest.mark.parametrize(
    ("model", "settings", "named"),
    [
        (VAE, {"width": 8}, "model.width"),
        (VAE, {"width": [0]}, "model.width"),
        (VAE, {"latent": 0}, "model.latent"),
        (VAE, {"beta": -1.0}, "model.beta"),
        (VAE, {"scale": 0.0}, "model.scale"),
        (VAE, {"scale": 0.05, "likelihood": "gaussian_learned"}, "model.scale must be above 0.05"),
        (VAE, {"bound": "iwae"}, "model.bound"),
        (VAE, {"bound": "importance", "beta": 2.0}, "model.bound"),
        (VAE, {"likelihood": "normal"}, "model.likelihood"),
        (VAE, {"draws": 0}, "model.draws"),
        (VAE, {"evaluation_draws": 0}, "model.evaluation_draws"),
        (VAE, {"conditional": 1}, "model.conditional"),
        (ConvVAE, {"channels": []}, "model.channels"),
        (ConvVAE, {"kernel_size": 2}, "model.kernel_size"),
    ],
)
def test_bad_settings_are_refused_by_name(model: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named}.* got .*; "):
        model(**settings)


def test_data_that_do_not_fit_are_refused(make_data: Any) -> None:
    with pytest.raises(
        IncompatibleError, match=r"model\.likelihood=bernoulli expects features from 0 to 1.*standardize"
    ):
        VAE(likelihood="bernoulli").build(make_data((D,)))
    with pytest.raises(IncompatibleError, match=r"model=conv_vae .*dataset=noise"):
        ConvVAE().build(make_data((D,)))
    with pytest.raises(IncompatibleError, match=r"model=conv_vae .*4x4"):
        ConvVAE().build(make_data((1, 3, 8)))
    with pytest.raises(IncompatibleError, match=r"model=vae .*token ids"):
        VAE().build(make_data((7,), kind="text"))
