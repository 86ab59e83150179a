"""Density models of the torch learner: trained together as alone, with gradients that are those of their risk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.engines.gradients import Gradients
from influx.learners.torch.optimizers import SGD
from influx.models.autoregressive import Autoregressive
from influx.models.conv_vae import ConvVAE
from influx.models.vae import VAE
from influx.oracles import toys
from influx.problem import Design

MODELS: dict[str, Any] = {
    "vae": VAE(width=[4], latent=2, draws=2, evaluation_draws=3),
    "conditional importance": VAE(width=[4], latent=2, conditional=True, bound="importance", evaluation_draws=3),
    "conv_vae": ConvVAE(channels=[2], latent=2, evaluation_draws=2),
    "autoregressive": Autoregressive(width=[4]),
}
FACTORS = ("vae", "conditional importance", "conv_vae")


def trained(below: Path, name: str, **settings: Any) -> toys.Toy:
    data = toys.images(6) if name == "conv_vae" else toys.table(n_train=6)
    return toys.train(below, replace(data, task="density"), MODELS[name], SGD(lr=0.01, momentum=0.5), **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_are_trained_together_as_one_at_a_time(name: str, tmp_path: Path) -> None:
    weights, zeros = np.ones((3, 6), np.uint8), np.zeros(3, np.int64)
    weights[1, 2] = weights[2, 4] = 0
    design, found = Design(weights=weights, init=zeros, order=zeros, loss_norm="full"), []
    for engine in ("vmap", "sequential"):
        toy = trained(tmp_path, name, epochs=2, engine=engine)
        found.append(toy.learner.retrain(toy.problem.data, 0, design))
        recorded = toy.fitted.outcomes(toy.test).loss
        assert np.allclose(found[-1][1].loss[0], recorded, rtol=1e-10)
    for one, other in zip(*found, strict=True):
        assert np.allclose(one.loss, other.loss, rtol=1e-10)
    assert np.ptp(found[0][1].loss, axis=0).min() > 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_risk(name: str, tmp_path: Path) -> None:
    toy = trained(tmp_path, name, epochs=1)
    at = Gradients(toy.fitted, toy.train, toy.test).at(toy.fitted.checkpoints[-1])
    x, y = at.tensors(toy.test)
    module = toy.fitted.model()
    for row, one in zip(at.rows(x, y).flat(), x, strict=True):
        risk = module(one[None]).sum()
        alone = torch.cat([g.flatten() for g in torch.autograd.grad(risk, list(module.parameters()))])
        assert torch.allclose(row, alone, rtol=1e-9, atol=1e-11)
    assert name not in FACTORS or set(at.route.values()) == {"factors"}
