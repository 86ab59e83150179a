"""LoGra: principal directions, what is left out, and settings that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from influx.engines.gradients import Gradients
from influx.engines.low_rank import low_rank
from influx.errors import ConfigError, IncompatibleError
from influx.estimators.projected.logra import LoGra
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
        ({"projections": 0}, "estimator.projections must be at least 1"),
        ({"projections": 2, "init": "pca"}, "principal directions are not drawn"),
        ({"damping": 0.0}, "estimator.damping must be positive"),
        ({"normalize": "loss_relative", "self_influence": False}, "needs estimator.self_influence=true"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        estimator_named("logra", settings)


@pytest.mark.parametrize("normalize", ["none", "loss_relative"])
def test_means_over_projections_have_their_standard_error(toy: Toy, normalize: str) -> None:
    estimator = LoGra(rank=2, projections=3, normalize=normalize)  # type: ignore[arg-type]
    run, single = toy.run(estimator, "logra"), LoGra(rank=2, normalize=normalize)  # type: ignore[arg-type]
    values = np.stack([single._scored(run, single._projections(run, number))[0] for number in range(3)])
    found = estimator.estimate(run)
    np.testing.assert_allclose(found.values, values.mean(0), rtol=1e-12)
    assert found.stderr is not None and found.report["stderr_degrees"] == 2
    np.testing.assert_allclose(found.stderr, values.std(0, ddof=1) / np.sqrt(3), rtol=1e-8)
    assert np.array_equal(values[0], toy.estimate("logra", rank=2, normalize=normalize).values)
    assert not np.allclose(values[0], values[1], rtol=0.1) and not np.allclose(values[1], values[2], rtol=0.1)


def test_whole_sides_leave_nothing_to_projections(toy: Toy) -> None:
    found = toy.estimate("logra", rank=100, projections=2)
    np.testing.assert_allclose(found.values, toy.estimate("logra", rank=100).values, rtol=1e-8)
    assert found.stderr is not None and found.stderr.max() < 1e-8 * np.abs(found.values).max()


def test_layers_that_are_named_add_up_to_all_of_them(toy: Toy) -> None:
    names = [n.removesuffix(".weight") for n, p in toy.module().named_parameters() if p.ndim == 2]
    whole = toy.estimate("logra", rank=2, init="pca")  # principal directions are those of the layer, whoever asks
    alone = [toy.estimate("logra", rank=2, init="pca", parameters=[name]).values for name in names]
    np.testing.assert_allclose(sum(alone), whole.values, rtol=1e-10)
    assert toy.estimate("logra", rank=2, parameters=names[0]).report["layers"] == 1
    with pytest.raises(IncompatibleError, match=r"estimator\.parameters=layers is the beginning of no"):
        toy.estimate("logra", parameters=["layers"])


def test_normalised_values_have_no_units(toy: Toy) -> None:
    plain, relative = (toy.estimate("logra", rank=3, normalize=n) for n in ("none", "loss_relative"))
    assert (plain.scale, relative.scale) == ("loss", "rank")
    np.testing.assert_allclose(relative.values * np.sqrt(plain.self_influence)[:, None], plain.values, rtol=1e-12)


def test_bits_do_not_depend_on_matrices_on_disk(toy: Toy) -> None:
    estimator = estimator_named("logra", {"rank": 3, "projections": 2})
    found = [estimator.estimate(toy.run(estimator, "logra", matrix_mb=mb)) for mb in (0, 1024)]
    assert np.array_equal(found[0].values, found[1].values) and np.array_equal(found[0].stderr, found[1].stderr)
