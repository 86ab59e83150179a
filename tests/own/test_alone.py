"""Estimators that look at the final parameters take a model alone; what asks for more says what to give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import influx
from influx.errors import ConfigError, IncompatibleError, UserError
from tests.own.nets import RATES, Trained, net

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained()


def attributed(trained: Trained, estimator: str, **more: Any) -> Any:
    return influx.attribute(trained.model, trained.train, trained.test, estimator=estimator, **more)


def refusal(error: type[UserError], estimator: str, **more: Any) -> str:
    with pytest.raises(error) as refused:
        attributed(Trained(), estimator, **more)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rows(function: Callable[[Tensor, Tensor], Tensor], state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Gradients of a function of one instance's logits and class."""
    model = net()
    model.load_state_dict(state)
    found = []
    for a, b in zip(x, y, strict=True):
        grads = torch.autograd.grad(function(model(a[None])[0], b), list(model.parameters()))
        found.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(found)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    p = logits.softmax(0)[y]
    return p.log() - (1 - p).log()


def regression(trained: Trained, state: dict[str, Tensor], function: Callable[[Tensor, Tensor], Tensor]) -> Array:
    """φ_jᵀ (ΦᵀΦ + I)⁻¹ φ_i."""
    left, right = rows(function, state, *trained.train), rows(function, state, *trained.test)
    found: Array = (left @ torch.linalg.solve(left.T @ left + torch.eye(left.shape[1]), right.T)).numpy()
    return found


def trak(trained: Trained, states: list[dict[str, Tensor]]) -> Array:
    """(mean of 1 - p) times the mean regression, over states."""
    slopes = []
    for state in states:
        model = net()
        model.load_state_dict(state)
        p = model(trained.train[0]).softmax(1)[torch.arange(6), trained.train[1]]
        slopes.append((1 - p).detach().numpy())
    found: Array = np.mean(slopes, 0)[:, None] * np.mean([regression(trained, s, margin) for s in states], 0)
    return found


PLAIN = {"kind": "none", "damping": 1.0}


def test_trak_takes_one_model(trained: Trained) -> None:
    found = attributed(trained, "trak", **PLAIN)
    assert np.allclose(found.influence, trak(trained, [trained.model.state_dict()]), rtol=1e-6)
    assert [c.step for c in found.checkpoints] == [0]


@pytest.mark.slow
def test_dtrak_takes_one_model(trained: Trained) -> None:
    found = attributed(trained, "dtrak", **PLAIN)
    wanted = regression(trained, trained.model.state_dict(), lambda logits, y: logits.square().mean())
    assert np.allclose(found.influence, wanted, rtol=1e-6)


@pytest.mark.slow
def test_logra_takes_one_model(trained: Trained) -> None:
    """With full ranks it is the inverse of each weight's empirical Fisher matrix."""
    found = attributed(trained, "logra", damping=0.5)
    state = trained.model.state_dict()
    left, right = trained.rows(state, *trained.train), trained.rows(state, *trained.test)
    total = torch.zeros(6, 2).double()
    for columns in (slice(0, 20), slice(25, 40)):  # weights without biases
        a, b = left[:, columns], right[:, columns]
        total += a @ torch.linalg.solve(a.T @ a / 6 + 0.5 * torch.eye(a.shape[1]), b.T) / 6
    assert np.allclose(found.influence, total.numpy(), rtol=1e-6)


@pytest.mark.slow
def test_a_uniform_sum_over_one_checkpoint_takes_one_model(trained: Trained) -> None:
    state = trained.model.state_dict()
    left, right = trained.rows(state, *trained.train), trained.rows(state, *trained.test)
    cosines = (F.normalize(left, dim=1) @ F.normalize(right, dim=1).T).numpy()
    assert np.allclose(attributed(trained, "less", weight="uniform", kind="none").influence, cosines, rtol=1e-5)
    assert np.allclose(attributed(trained, "gas", weight="uniform").influence, cosines, rtol=1e-5)
    products = attributed(trained, "tracincp", weight="uniform")
    assert np.allclose(products.influence, (left @ right.T).numpy(), rtol=1e-5)
    assert "estimator.weight=uniform" in refusal(IncompatibleError, "less")


@pytest.mark.slow
def test_a_uniform_sum_needs_no_learning_rates(trained: Trained) -> None:
    found = attributed(trained, "tracincp", weight="uniform", checkpoints=trained.states)
    assert np.allclose(found.influence, trained.tracin(trained.states, (1.0,) * 3), rtol=1e-5)
    assert "learning rate of every checkpoint" in refusal(IncompatibleError, "gas", checkpoints=trained.states).replace(
        "lrs", ""
    )


@pytest.mark.slow
def test_source_takes_one_model_with_the_steps_and_the_rate_that_made_it(trained: Trained) -> None:
    """(1/n) g_jᵀ (I - exp(-S H)) H⁻¹ g_i with S the sum of rates and the empirical Fisher matrix."""
    exact = {"segments": 1, "solver": "exact", "curvature": "empirical_fisher"}
    found = attributed(trained, "source", **exact, lrs=0.1, steps=[50])
    state = trained.model.state_dict()
    left, right = trained.rows(state, *trained.train), trained.rows(state, *trained.test)
    values, vectors = torch.linalg.eigh(left.T @ left / 6)
    values = values.clamp_min(1e-12)
    gained = vectors @ torch.diag((1 - (-5.0 * values).exp()) / values) @ vectors.T
    assert np.allclose(found.influence, (left @ gained @ right.T / 6).numpy(), rtol=1e-4)
    assert [c.step for c in found.checkpoints] == [50]
    for given in ({"lrs": 0.1}, {"steps": [50]}, {"lrs": [0.1, 0.2], "steps": [50]}, {"lrs": 0.1, "steps": [0, 50]}):
        assert "lrs=0.1, steps=[1000]" in refusal(ConfigError, "source", **exact, **given)
    assert "one was given" in refusal(ConfigError, "tracincp", lrs=0.1, steps=[50])


@pytest.mark.slow
def test_several_files_are_as_many_models_unless_one_is_known_to_be_the_start(trained: Trained, tmp_path: Path) -> None:
    states = [*trained.states[:2], trained.model.state_dict()]
    three = attributed(trained, "trak", **PLAIN, checkpoints=states[:2], settings={"checkpoints": 3})
    assert np.allclose(three.influence, trak(trained, states), rtol=1e-6)
    started = {"checkpoints": states[:2], "steps": [0, 5]}
    two = attributed(trained, "trak", **PLAIN, **started, settings={"checkpoints": 2})
    assert np.allclose(two.influence, trak(trained, states[1:]), rtol=1e-6)
    assert "2 are saved" in refusal(ConfigError, "trak", **started, settings={"checkpoints": 3})
    for step, state in zip((10, 20, 30), states, strict=True):
        torch.save(state, tmp_path / f"{step}.pt")
    three = attributed(trained, "trak", **PLAIN, checkpoints=tmp_path, settings={"checkpoints": 3})
    assert np.allclose(three.influence, trak(trained, states), rtol=1e-6)


@pytest.mark.slow
def test_trak_is_averaged_over_checkpoints_one_by_one(trained: Trained) -> None:
    states = [*trained.states[1:], trained.model.state_dict()]
    inner = {"of": "trak", "over": "checkpoints", "count": 3, "settings": {"of": "trak"}}
    settings = inner | {"settings": PLAIN | {"self_influence": False}}
    found = attributed(trained, "averaged", checkpoints=trained.states[1:], settings=settings)
    assert np.allclose(found.influence, np.mean([trak(trained, [s]) for s in states], 0), rtol=1e-6)
    several = settings | {"settings": {"checkpoints": 2}}
    assert "final net alone" in refusal(ConfigError, "averaged", checkpoints=trained.states, settings=several)


@pytest.mark.parametrize(
    ("estimator", "settings"), [("trak", {"models": 5}), ("averaged", {"of": "if_exact"}), ("averaged", {"of": "trak"})]
)
def test_further_trainings_of_a_brought_model_are_refused_with_what_can_be_done(
    estimator: str, settings: dict[str, Any]
) -> None:
    said = refusal(IncompatibleError, estimator, settings=settings)
    assert "trained elsewhere" in said and "train with influx.run" in said and "randomness" not in said


def test_unequal_rates_of_parameter_groups_are_told(trained: Trained, tmp_path: Path) -> None:
    for step, state in enumerate([*trained.states, trained.model.state_dict()]):
        groups = [{"lr": 0.1, "params": [0]}, {"lr": 0.02, "params": [1]}]
        torch.save({"model": state, "step": step, "optimizer": {"param_groups": groups}}, tmp_path / f"{step}.pt")
    said = refusal(IncompatibleError, "tracincp", checkpoints=tmp_path)
    assert "had 0.1, 0.02 at step 0; set lrs" in said and "do not tell" not in said
    found = attributed(trained, "tracincp", checkpoints=tmp_path, lrs=[*RATES, 0.0])
    assert np.allclose(found.influence, trained.tracin(trained.states, RATES), rtol=1e-5)


def test_one_more_step_on_a_model_alone_needs_a_rate(trained: Trained) -> None:
    train = tuple(torch.cat([part, part]) for part in trained.train)  # the metric looks at ten of them
    settings: dict[str, Any] = {"estimator": "tracincp", "weight": "uniform", "metrics": ["tail_patch"]}
    table = influx.attribute(trained.model, train, trained.test, **settings).metrics
    table = table[table["metric"].str.startswith("tail_patch")]
    assert len(table) == 3 and table["note"].str.contains("learning rate is 0 at the end of training").all()


def test_a_uniform_sum_over_one_model_has_no_more_checkpoints() -> None:
    more = {"weight": "uniform", "settings": {"checkpoints": 5}}
    assert "checkpoints=5 but 1 usable" in refusal(ConfigError, "tracincp", **more)
