"""LoGra: principal directions, what is left out, and settings that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from influx.engines.gradients import Gradients
from influx.engines.low_rank import low_rank
from influx.errors import ConfigError
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=[6, 5]))


def test_principal_directions_are_those_of_inputs_and_output_gradients(toy: Toy) -> None:
    at = Gradients(toy.fitted, toy.train, toy.test).at(toy.fitted.checkpoints[-1])
    layers = low_rank(at, toy.train, 2, "pca", 0)
    assert layers.names == [n for n, p in toy.module().named_parameters() if p.ndim == 2]
    module, (x, y) = toy.module(), toy.tensors(toy.train)
    first = next(iter(module.parameters()))
    columns = layers.pairs[0].columns
    vectors = torch.linalg.eigh(x.T @ x)[1][:, -2:]  # the inputs of the first layer
    torch.testing.assert_close(columns @ columns.T, vectors @ vectors.T)
    outputs: list[torch.Tensor] = []
    for i in range(len(x)):
        risk = torch.nn.functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1])
        (g,) = torch.autograd.grad(risk, first)
        outputs.append(g @ x[i] / (x[i] @ x[i]))
    rows, stacked = layers.pairs[0].rows, torch.stack(outputs)
    vectors = torch.linalg.eigh(stacked.T @ stacked)[1][:, -2:]
    torch.testing.assert_close(rows @ rows.T, vectors @ vectors.T)


def test_principal_directions_capture_more(toy: Toy) -> None:
    shares = {init: float(toy.estimate("logra", rank=2, init=init).report["captured"]) for init in ("random", "pca")}
    assert shares["random"] < shares["pca"] < 1
    whole = float(toy.estimate("logra", rank=100).report["captured"])
    at = Gradients(toy.fitted, toy.train, toy.test).at(toy.fitted.checkpoints[-1])
    flat = torch.cat([rows.flat() for _, rows in at.blocks(toy.train)])
    matrices = torch.cat([torch.full((p.numel(),), p.ndim == 2) for p in at.parameters.values()])
    assert whole == pytest.approx(float(flat[:, matrices].square().sum() / flat.square().sum()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "estimator.rank must be at least 1"),
        ({"damping": 0.0}, "estimator.damping must be positive"),
        ({"normalize": "loss_relative", "self_influence": False}, "needs estimator.self_influence=true"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        estimator_named("logra", settings)


def test_normalised_values_have_no_units(toy: Toy) -> None:
    plain, relative = (toy.estimate("logra", rank=3, normalize=n) for n in ("none", "loss_relative"))
    assert (plain.scale, relative.scale) == ("loss", "rank")
    np.testing.assert_allclose(relative.values * np.sqrt(plain.self_influence)[:, None], plain.values, rtol=1e-12)


def test_bits_do_not_depend_on_matrices_on_disk(toy: Toy) -> None:
    estimator = estimator_named("logra", {"rank": 3})
    found = [estimator.estimate(toy.run(estimator, "logra", matrix_mb=mb)).values for mb in (0, 1024)]
    assert np.array_equal(*found)
