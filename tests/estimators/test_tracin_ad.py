"""TracInAD: what is drawn, density models with latent draws, and settings that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from influx.datasets.corruption.anomaly_class import AnomalyClass
from influx.engines import influence_samples
from influx.engines.directional import along, mean_gradient
from influx.engines.gradients import Gradients
from influx.errors import ConfigError, IncompatibleError
from influx.models.mlp import MLP
from influx.models.vae import VAE
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.problem import Data


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=5))


@pytest.fixture(scope="module")
def density(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    data = replace(toys.table(n_train=12, n_test=4), task="density")
    return toys.train(tmp_path_factory.mktemp("density"), data, VAE(width=[4], latent=2, evaluation_draws=3))


def gradient_of(toy: Toy, module: nn.Module, x: torch.Tensor) -> np.ndarray:
    """One backward pass per instance of a module that returns risks."""
    rows = []
    for one in x.split(1):
        found = torch.autograd.grad(module(one).sum(), list(module.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("draws", [None, 7])
def test_on_a_density_model_it_is_the_mean_influence_over_latent_draws(draws: int | None, density: Toy) -> None:
    fitted = density.fitted if draws is None else density.fitted.with_draws(draws, "tracin_ad")
    expected = np.zeros((len(density.train), len(density.test)))
    for checkpoint in density.fitted.checkpoints[:-1]:
        module = density.module(checkpoint.step)
        mine, theirs = (gradient_of(density, module, fitted.tensors(s)[0]) for s in (density.train, density.test))
        expected += checkpoint.lr[0] * mine @ theirs.T
    found = density.estimate("tracin_ad", draws=draws)
    np.testing.assert_allclose(found.values, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.tables["anomaly"]["mean"], expected.mean(axis=0), rtol=1e-9)
    alone = density.estimate("tracin_ad", draws=draws, distribution=False)
    np.testing.assert_allclose(alone.tables["anomaly"]["mean"], found.tables["anomaly"]["mean"], rtol=1e-12)
    if draws is None:
        cp = density.estimate("tracincp").values
        np.testing.assert_allclose(found.tables["anomaly"]["mean"], cp.mean(axis=0), rtol=1e-12)


def test_some_parameters_have_their_share_alone(density: Toy) -> None:
    names, expected = ("decoder.layers.2.weight", "decoder.layers.2.bias"), np.zeros(len(density.test))
    for checkpoint in density.fitted.checkpoints[:-1]:
        module = density.module(checkpoint.step)
        owner = np.repeat(
            [name in names for name, _ in module.named_parameters()], [*map(numbers, module.parameters())]
        )
        sides = [density.fitted.tensors(split)[0] for split in (density.train, density.test)]
        mine, theirs = (gradient_of(density, module, x)[:, owner] for x in sides)
        expected += checkpoint.lr[0] * theirs @ mine.mean(axis=0)
    for settings in ({}, {"distribution": False}):
        found = density.estimate("tracin_ad", parameters=["decoder.layers.2"], **settings)
        np.testing.assert_allclose(found.tables["anomaly"]["mean"], expected, rtol=1e-9)
        assert found.scale == "rank" and found.report["parameters"] == ["decoder.layers.2"]
    with pytest.raises(IncompatibleError, match=r"parameters=head .* these begin with encoder, decoder"):
        density.estimate("tracin_ad", parameters="head")


def numbers(parameter: torch.Tensor) -> int:
    return parameter.numel()


def test_the_mean_alone_has_no_matrix(toy: Toy) -> None:
    found = toy.estimate("tracin_ad", distribution=False)
    assert found.values.shape == (len(toy.train), len(toy.test)) and np.isnan(found.values).all()
    assert not found.computed.any() and found.self_influence is None
    assert list(found.tables["anomaly"]) == ["test_id", "mean", "score", "standardised", "p_value", "suspicion"]


class Odd(nn.Module):
    """A function that forward mode does not know."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            return 2 * g * ctx.saved_tensors[0]

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(4, 3).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(Odd.Square.apply(self.first(x)))
        return found


def test_directional_derivatives_without_forward_mode_are_written_out(toy: Toy) -> None:
    torch.manual_seed(0)
    at = Gradients(toy.fitted, toy.train, toy.test).of(Odd())
    direction = mean_gradient(at, toy.train)
    flat = np.concatenate([d.flatten().numpy() for d in direction])
    rows = np.concatenate([found.flat().detach().numpy() for _, found in at.blocks(toy.train)])
    np.testing.assert_allclose(flat, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(along(at, toy.train, direction), rows @ flat, rtol=1e-12)


def test_samples_are_drawn_by_id_and_fresh_ones_differ() -> None:
    ids = np.array([7, 3, 9, 1, 5, 8])
    rng = np.random.default_rng
    fresh = influence_samples.drawn(ids, 4, 3, True, rng(0))
    assert len({tuple(sorted(rows)) for rows in fresh}) > 1 and all(len(set(rows)) == 4 for rows in fresh)
    same = influence_samples.drawn(ids, 4, 3, False, rng(0))
    assert len({tuple(rows) for rows in same}) == 1
    order = np.array([4, 0, 5, 2, 1, 3])
    moved = influence_samples.drawn(ids[order], 4, 3, True, rng(0))
    assert [ids[order][rows].tolist() for rows in moved] == [ids[rows].tolist() for rows in fresh]


def test_the_mean_of_samples_is_that_of_all_on_average(toy: Toy) -> None:
    common = {"checkpoints": 1, "reference": 19}
    exact = toy.estimate("tracin_ad", **common).tables["anomaly"]["mean"].to_numpy()
    found = []
    for seed in range(25):
        other = replace(toy, problem=replace(toy.problem, seed=seed))
        table = other.estimate("tracin_ad", samples=5, n_boot=100, **common).tables["anomaly"]
        assert not {"ci_low", "ci_high"} - set(table)
        found.append(table["mean"].to_numpy())
    z = (np.mean(found, axis=0) - exact) / (np.std(found, axis=0, ddof=1) / 5)
    assert np.abs(z).max() < 4 and np.std(found, axis=0).min() > 0


def shifted(data: Data) -> Data:
    """Usual instances lie at 3, those of the third class at 9: their gradients point the same way and are longer."""
    parts = [replace(s, x=s.x / 4 + 3 + 6 * (s.y == 2)[:, None].astype(np.float32)) for s in (data.train, data.test)]
    return replace(data, train=parts[0], test=parts[1], task="classification")


def test_a_class_that_a_density_model_never_saw_is_in_the_upper_tail(tmp_path: Path) -> None:
    data = AnomalyClass(target_class="c").apply(shifted(toys.table(n_train=90, n_test=30)), 0)
    toy = toys.train(tmp_path, replace(data, task="density"), VAE(width=[4], latent=1, evaluation_draws=4))
    sampled = {"samples": 20, "fresh": False}
    for settings in ({}, {"samples": 20}, {"aggregate": "quantile"}, sampled, sampled | {"aggregate": "quantile"}):
        table = toy.estimate("tracin_ad", **settings).tables["anomaly"]
        anomaly = data.test_flags["anomaly"]
        assert table["suspicion"][anomaly].min() > table["suspicion"][~anomaly].max()
        assert table["p_value"][anomaly].max() <= 1 / 61 + 1e-12
        assert ("ci_low" in table) == ("samples" in settings)  # all instances leave nothing to chance
        if "samples" in settings:
            assert ((table["ci_low"] <= table["score"]) & (table["score"] <= table["ci_high"])).all()
        # sums over other instances at every checkpoint have no distribution over instances
        assert ("deviation" in table) == ("q50" in table) == (settings != {"samples": 20})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 1}, r"estimator\.samples must be at least 2, got 1"),
        ({"reference": 3}, r"estimator\.reference must be at least 19"),
        ({"draws": 0}, r"estimator\.draws must be at least 1"),
        ({"level": 1.0}, r"estimator\.level must be between 0 and 1"),
        ({"aggregate": "quantile", "distribution": False}, r"aggregate=quantile needs the distribution"),
        ({"aggregate": "quantile", "samples": 5}, r"set estimator\.fresh=false"),
        ({"parameters": []}, r"estimator\.parameters must name some parameters"),
        ({"choose": "loss_drop"}, r"estimator\.choose=loss_drop keeps some"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        estimator_named("tracin_ad", settings)


@pytest.mark.parametrize("ask", ["estimate", "plan"])
def test_more_samples_than_instances_are_refused_before_and_after_training(ask: str, toy: Toy) -> None:
    from influx.planning import Prospect

    estimator: Any = estimator_named("tracin_ad", {"samples": 10})
    prospect = Prospect(problem=toy.problem, who="tracin_ad", shape=toy.learner.net_shape(toy.problem))
    do: dict[str, Callable[[], object]] = {
        "estimate": lambda: estimator.estimate(toy.run(estimator, "tracin_ad")),
        "plan": lambda: estimator.plan(prospect),
    }
    with pytest.raises(ConfigError, match="samples=10 is more than the 9 training instances"):
        do[ask]()


def test_one_training_instance_is_refused(toy: Toy) -> None:
    data = toy.problem.data
    alone = replace(toy, problem=replace(toy.problem, data=replace(data, train=data.train.take(slice(0, 1)))))
    with pytest.raises(ConfigError, match=r"there is 1; raise dataset\.n_train"):
        alone.estimate("tracin_ad")
