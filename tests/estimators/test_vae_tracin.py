"""VAE-TracIn: the bias of self-influence, what a part of the parameters contributes, and what is warned about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import influx.learners.torch.inputs as inputs
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.models.autoregressive import Autoregressive
from influx.models.mlp import MLP
from influx.models.vae import VAE
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.oracles.vae_tracin import _of as expected_gradients
from influx.problem import Data, Split

COPIES = 3000
SLOWLY = SGD(lr=0.02)


def density(n_train: int = 6, n_test: int = 3) -> Data:
    return replace(toys.table(n_train=n_train, n_test=n_test), task="density")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), density(), VAE(width=[4], latent=2), SLOWLY)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("linear"), density(), VAE(width=[], latent=2, beta=0.7), SLOWLY)


def warned(toy: Toy, **settings: Any) -> tuple[Influence, list[str]]:
    run = toy.run(made := estimator_named("vae_tracin", settings), "vae_tracin")
    return made.estimate(run), run.warnings


@pytest.mark.parametrize("draws", [2, 4])
def test_self_influence_is_unbiased_over_different_draws_and_too_large_over_the_same(draws: int, linear: Toy) -> None:
    one = linear.train.take(slice(0, 1))
    x, y = one.x.repeat(COPIES, 0), one.y.repeat(COPIES)
    copies = linear.with_data(replace(linear.problem.data, train=Split(x=x, y=y, ids=1000 + np.arange(COPIES))))
    given = {"draws": draws, "groups": 0, "checkpoints": 1, "weight": "uniform", "choose": "even"}
    found = {
        name: own(copies.estimate("vae_tracin", self_unbiased=name, **given))
        for name in ("split_half", "pairs", "same")
    }
    step = linear.fitted.checkpoints[-2].step  # one checkpoint is the last usable
    exact = float((expected_gradients(linear.module(step), linear.tensors(one)[0]) ** 2).sum())
    for name in ("split_half", "pairs"):
        error = found[name].std(ddof=1) / np.sqrt(COPIES)
        assert abs(found[name].mean() - exact) < 4 * error < 0.2 * exact, name
    rows = single_draws(linear, step, one)
    bias = float(np.trace(np.atleast_2d(np.cov(rows.T)))) / draws
    error = found["same"].std(ddof=1) / np.sqrt(COPIES)
    assert abs(found["same"].mean() - exact - bias) < 4 * error + 0.05 * bias and bias > 10 * error
    assert found["pairs"].std() <= found["split_half"].std() * (1.0001 if draws == 2 else 0.99)


def single_draws(toy: Toy, step: int, one: Split) -> np.ndarray:
    """``(4000, p)`` gradients of one instance, each over one draw of its own."""
    module, x = toy.module(step), toy.tensors(one)[0]
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(4000, 2)))
    many = torch.cat([x.expand(len(noise), -1), noise], 1)
    params = dict(module.named_parameters())

    def risk(given: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(module, given, (row[None],)).sum()  # type: ignore[no-any-return]

    found = torch.func.vmap(torch.func.grad(risk), in_dims=(None, 0))(params, many)
    return torch.cat([g.flatten(1) for g in found.values()], 1).detach().numpy()


def own(influence: Influence) -> np.ndarray:
    assert influence.self_influence is not None
    return influence.self_influence


def test_the_standard_error_is_what_other_draws_change(toy: Toy) -> None:
    train, test = (
        Split(x=s.x[:1].repeat(400, 0), y=s.y[:1].repeat(400), ids=first + np.arange(400))
        for s, first in ((toy.train, 1000), (toy.test, 2000))
    )
    copies = toy.with_data(replace(toy.problem.data, train=train, test=test))
    found = copies.estimate("vae_tracin", draws=8, groups=4)
    assert found.stderr is not None and found.report["stderr_degrees"] == 3
    spread = np.diag(found.values).std(ddof=1)  # pairs with draws of their own
    told = np.sqrt(np.square(np.diag(found.stderr)).mean())
    assert 0.85 < told / spread < 1.3


def test_encoder_and_decoder_add_up_to_all(toy: Toy) -> None:
    given = {"draws": 4, "groups": 2}
    whole = toy.estimate("vae_tracin", **given)
    parts = [toy.estimate("vae_tracin", parameters=part, **given) for part in ("encoder", "decoder")]
    np.testing.assert_allclose(sum(p.values for p in parts), whole.values, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(sum(own(p) for p in parts), own(whole), rtol=1e-12, atol=1e-14)
    both = toy.estimate("vae_tracin", parameters=["encoder", "decoder"], **given)
    np.testing.assert_array_equal(both.values, whole.values)


def test_without_noise_and_divergence_it_is_tracincp_of_an_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "normals", lambda seed, name, ids, count: np.zeros((len(ids), count)))
    toy = toys.train(tmp_path, density(), VAE(width=[4], latent=2, beta=0.0), SLOWLY)
    expected, weights = np.zeros((6, 3)), {c.step: c.lr[0] for c in toy.fitted.checkpoints[:-1]}
    for step, weight in weights.items():
        module = toy.module(step)
        mine, theirs = (reconstruction_gradients(module, toy.tensors(s)[0]) for s in (toy.train, toy.test))
        expected += weight * mine @ theirs.T
    found, said = warned(toy, draws=4, groups=2)
    np.testing.assert_allclose(found.values, expected, rtol=1e-11, atol=1e-13)
    assert any("does not depend on the latent draws" in sentence for sentence in said)
    assert found.stderr is not None and found.stderr.max() < 1e-12


def reconstruction_gradients(module: nn.Module, x: Tensor) -> np.ndarray:
    rows = []
    for one in x.split(1):
        nothing = one[:, :0]
        mean = module.encoder(one, nothing).chunk(2, 1)[0]
        risk = 0.5 * (one - module.decoder(mean[:, None], nothing)[:, 0]).square().sum()
        found = torch.autograd.grad(risk, list(module.parameters()), allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in found]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    "model", [Autoregressive(width=[4]), MLP(width=4)], ids=["density without draws", "classifier"]
)
def test_without_draws_it_is_tracincp_and_says_so(model: Any, tmp_path: Path) -> None:
    data = density() if isinstance(model, Autoregressive) else toys.table(n_train=6, n_test=3)
    toy = toys.train(tmp_path, data, model, SLOWLY)
    found, said = warned(toy)
    expected = toy.estimate("tracincp")
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(own(found), own(expected), rtol=1e-12)
    assert said == ["the model's risk takes no latent draws; the result is that of tracincp"]
    assert found.stderr is None and found.report["draws"] == 0


def test_draws_are_not_warned_about_where_they_matter(toy: Toy) -> None:
    assert warned(toy)[1] == []


@dataclass(frozen=True, kw_only=True)
class Deaf(VAE):
    """A model that takes draws and reads their number alone."""

    def build(self, data: Data) -> nn.Module:
        class Without(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Tensor) -> Tensor:
                size = 3
                found: Tensor = self.inner(torch.cat([x[:, :size], 0 * x[:, size:]], 1))
                return found

        return Without(super().build(data))


def test_a_module_that_ignores_its_draws_is_warned_about(tmp_path: Path) -> None:
    _, said = warned(toys.train(tmp_path, density(), Deaf(width=[4], latent=2), SLOWLY))
    assert len(said) == 1 and "deterministic" in said[0]


def test_every_checkpoint_has_draws_of_its_own(toy: Toy) -> None:
    one, two = (toy.fitted.with_draws(2, f"vae_tracin/{step}").tensors(toy.train)[0] for step in toy.steps()[:2])
    assert not np.allclose(one[:, 3:], two[:, 3:])


@pytest.fixture(scope="module")
def importance(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    model = VAE(width=[4], latent=2, bound="importance")
    return toys.train(tmp_path_factory.mktemp("importance"), density(), model, SLOWLY)


@pytest.mark.parametrize("settings", [{}, {"groups": 0}, {"self_unbiased": "same"}, {"self_unbiased": "pairs"}])
def test_a_risk_that_is_no_mean_over_draws_is_not_split(settings: dict[str, Any], importance: Toy) -> None:
    with pytest.raises(IncompatibleError, match=r"no mean over draws.* set model\.bound=elbo"):
        importance.estimate("vae_tracin", **settings)


@pytest.mark.parametrize("settings", [{"groups": 0}, {"jackknife": True}])
def test_a_risk_that_is_no_mean_over_draws_is_taken_whole(settings: dict[str, Any], importance: Toy) -> None:
    found = importance.estimate("vae_tracin", self_unbiased="same", **settings)
    expected = np.zeros(len(importance.train))
    for checkpoint in importance.fitted.checkpoints[:-1]:
        x, _ = importance.fitted.with_draws(16, f"vae_tracin/{checkpoint.step}").tensors(importance.train)
        module = importance.module(checkpoint.step)
        for i, row in enumerate(x):
            gradients = torch.autograd.grad(module(row[None]).sum(), list(module.parameters()))
            expected[i] += checkpoint.lr[0] * sum(float(g.square().sum()) for g in gradients)
    np.testing.assert_allclose(own(found), expected, rtol=1e-10)


def test_the_jackknife_over_checkpoints_computes_no_draws_left_out(toy: Toy) -> None:
    given = {"draws": 4, "jackknife": True}
    one, other = (toy.estimate("vae_tracin", groups=groups, **given) for groups in (4, 0))
    np.testing.assert_array_equal(np.asarray(one.stderr), np.asarray(other.stderr))
    assert "stderr_degrees" not in one.report


@pytest.mark.parametrize(("parameters", "scale"), [("all", "loss"), ("decoder", "rank")])
def test_values_of_a_part_are_no_change_in_risk(parameters: str, scale: str, toy: Toy) -> None:
    given = {"weight": "calibrated", "draws": 2, "groups": 0, "parameters": parameters}
    assert toy.estimate("vae_tracin", **given).scale == scale


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"draws": 0}, "estimator.draws must be at least 1, got 0"),
        ({"draws": 6}, "estimator.groups must be 0 or at least 2 and divide estimator.draws=6, got 4"),
        ({"groups": 1}, "estimator.groups must be 0 or at least 2"),
        ({"draws": 3, "groups": 3}, "split_half needs an even number of draws, got estimator.draws=3"),
        ({"draws": 1, "groups": 0, "self_unbiased": "pairs"}, "pairs needs at least 2 draws"),
        ({"parameters": []}, "estimator.parameters must name some parameters"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        estimator_named("vae_tracin", settings)


def test_a_part_that_the_model_does_not_have_is_refused(toy: Toy) -> None:
    with pytest.raises(IncompatibleError, match=r"parameters=head .* these begin with encoder, decoder"):
        toy.estimate("vae_tracin", parameters="head")
    with pytest.raises(IncompatibleError, match="parameters=enc "):
        toy.estimate("vae_tracin", parameters=["decoder", "enc"])


def test_settings_of_the_draws_change_no_order_of_instances(toy: Toy) -> None:
    """An instance's values do not depend on who else is in its split."""
    few = toy.with_data(replace(toy.problem.data, train=toy.train.take(slice(2, 4))))
    for unbiased, groups in product(("split_half", "pairs"), (0, 2)):
        given = {"draws": 4, "groups": groups, "self_unbiased": unbiased}
        part, whole = few.estimate("vae_tracin", **given), toy.estimate("vae_tracin", **given)
        np.testing.assert_allclose(part.values, whole.values[2:4], rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(own(part), own(whole)[2:4], rtol=1e-11, atol=1e-14)
