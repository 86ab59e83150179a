"""``influx.attribute``: a model that is already there, held against plain autograd."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

import influx
from influx.errors import ConfigError, DataError, IncompatibleError, UserError
from influx.given import problem_of
from influx.given_checkpoints import source_of
from influx.integrations.saving import state_of
from influx.learners.torch.dense import dense_layers
from influx.learners.torch.given import own_copy
from tests.own.nets import RATES, Trained, net

PLAIN = {"curvature": "hessian", "damping": 0.5, "self_influence": False}


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained()


def refused(error: type[UserError], *words: str, **given: Any) -> None:
    trained = Trained()
    call = {"model": trained.model, "train": trained.train, "test": trained.test} | given
    with pytest.raises(error) as refusal:
        influx.attribute(**call)
    said = str(refusal.value)
    assert "\n" not in said and all(word in said for word in words), said


def exact(trained: Trained, damping: float) -> np.ndarray[Any, Any]:
    """(1/n) g_jᵀ (H + δI)⁻¹ g_i with the Hessian of the mean risk by autograd."""
    model, (x, y) = trained.model, trained.train
    shapes = {name: p.shape for name, p in model.named_parameters()}
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def risk(theta: Tensor) -> Tensor:
        pieces = theta.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return F.cross_entropy(functional_call(model, named, (x,)), y)

    hessian = torch.autograd.functional.hessian(risk, flat) + damping * torch.eye(len(flat)).double()
    state = model.state_dict()
    left, right = trained.rows(state, *trained.train), trained.rows(state, *trained.test)
    found: np.ndarray[Any, Any] = (left @ torch.linalg.solve(hessian, right.T) / len(x)).numpy()
    return found


def test_influence_functions_are_those_of_a_dense_hessian(trained: Trained) -> None:
    found = influx.attribute(trained.model, trained.train, trained.test, estimator="if_exact", **PLAIN)
    assert np.allclose(found.influence, exact(trained, 0.5), rtol=1e-5, atol=1e-8)
    assert set(found.ranking["role"]) == {"proponent", "opponent"} and len(found.metrics) == 0
    assert type(found.model()).__name__ == "Sequential" and found.problem.train.y.tolist() == trained.train[1].tolist()


def test_tracincp_follows_the_states_given_and_ends_at_the_model(trained: Trained) -> None:
    given = {"checkpoints": trained.states, "lrs": RATES, "estimator": "tracincp"}
    found = influx.attribute(trained.model, trained.train, trained.test, **given)
    assert np.allclose(found.influence, trained.tracin(trained.states, RATES), rtol=1e-5)
    assert [c.step for c in found.checkpoints] == [0, 1, 2, 3]
    own = trained.tracin(trained.states, RATES)
    assert found.self_influence is not None and own.shape == (6, 2)
    final = influx.attribute(trained.model, trained.train, trained.test, **given | {"lr_at": "prev"})
    moved = [*trained.states[1:], trained.model.state_dict()]
    assert np.allclose(final.influence, trained.tracin(moved, RATES), rtol=1e-5)


def test_a_last_checkpoint_that_is_the_model_is_not_counted_twice(trained: Trained) -> None:
    states = [*trained.states, trained.model.state_dict()]
    found = influx.attribute(
        trained.model,
        trained.train,
        trained.test,
        checkpoints=states,
        lrs=0.1,
        estimator="tracincp",
        steps=[0, 5, 9, 12],
    )
    assert [c.step for c in found.checkpoints] == [0, 5, 9, 12]
    assert np.allclose(found.influence, trained.tracin(trained.states, (0.1,) * 3), rtol=1e-5)


def test_the_model_stays_as_it_is_and_may_be_in_any_state(trained: Trained) -> None:
    model = copy.deepcopy(trained.model).train()
    next(model.parameters()).grad = torch.ones(5, 4).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = influx.attribute(torch.nn.DataParallel(model), trained.train, trained.test, estimator="if_exact", **PLAIN)
    assert np.allclose(found.influence, exact(trained, 0.5), rtol=1e-5, atol=1e-8)
    assert model.training and torch.equal(next(model.parameters()).grad, torch.ones(5, 4).double())  # type: ignore[arg-type]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_frozen_parameters_are_constants(trained: Trained) -> None:
    model = copy.deepcopy(trained.model)
    model[0].requires_grad_(False)
    states = [trained.model.state_dict()] * 1
    found = influx.attribute(
        model, trained.train, trained.test, checkpoints=[*trained.states[:1], *states], lrs=1.0, estimator="tracincp"
    )
    head = slice(25, None)  # after 20 weights and 5 biases
    rows = [trained.rows(trained.states[0], *side)[:, head] for side in (trained.train, trained.test)]
    assert np.allclose(found.influence, rows[0] @ rows[1].T, rtol=1e-5)


@pytest.mark.parametrize("form", ["numpy", "dataset", "items", "mappings"])
def test_instances_may_come_in_several_forms(trained: Trained, form: str) -> None:
    forms: dict[str, Any] = {
        "numpy": lambda x, y: (x.numpy(), y.tolist()),
        "dataset": lambda x, y: TensorDataset(x, y),
        "items": lambda x, y: Items([(a, int(b)) for a, b in zip(x, y, strict=True)]),
        "mappings": lambda x, y: [{"input": a, "label": b, "text": "left out"} for a, b in zip(x, y, strict=True)],
    }
    sides = [forms[form](*side) for side in (trained.train, trained.test)]
    found = problem_of(trained.model, sides[0], sides[1], "cross_entropy", None)
    for split, (x, y) in ((found.data.train, trained.train), (found.data.test, trained.test)):
        read = found.factory.module(torch.from_numpy(split.x))
        assert torch.equal(read, trained.model(x)) and split.y.tolist() == y.tolist()


class Items:
    """A map-style dataset."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def weighted(outputs: Tensor, y: Tensor) -> Tensor:
    """A loss that holds a tensor of one precision."""
    return F.cross_entropy(outputs, y, reduction="none", weight=torch.tensor([1.0, 2.0, 0.5]))


def test_a_loss_of_your_own_is_differentiated(trained: Trained) -> None:
    given = {"checkpoints": trained.states, "lrs": 1.0, "settings": {"checkpoints": 1}, "estimator": "tracincp"}
    found = influx.attribute(trained.model, trained.train, trained.test, loss=weighted, **given)
    state, weights = trained.states[2], torch.tensor([1.0, 2.0, 0.5]).double()
    rows = [trained.rows(state, *side) * weights[side[1], None] for side in (trained.train, trained.test)]
    assert np.allclose(found.influence, rows[0] @ rows[1].T, rtol=1e-4)


def test_sequences_are_instances_with_one_risk(trained: Trained) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Tanh(), nn.Linear(4, 6))
    x = torch.randint(0, 6, (5, 3))
    y = x.roll(-1, 1)
    y[0, 2] = -100
    zero = {name: value.clone() for name, value in model.state_dict().items()}
    found = influx.attribute(
        model, (x[:3], y[:3]), (x[3:], y[3:]), checkpoints=[zero, {k: v + 0.1 for k, v in zero.items()}], lrs=1.0,
        estimator="tracincp",
    )  # fmt: skip
    assert found.problem.data.task == "density"
    rows = []
    for a, b in zip(x, y, strict=True):
        loss = F.cross_entropy(model(a[None])[0], b, ignore_index=-100)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    last = torch.stack(rows)
    model.load_state_dict({k: v + 0.1 for k, v in zero.items()})
    rows = []
    for a, b in zip(x, y, strict=True):
        loss = F.cross_entropy(model(a[None])[0], b, ignore_index=-100)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    second = torch.stack(rows)
    model.load_state_dict(zero)
    # the model itself follows the two states, which are steps 0 and 1
    assert np.allclose(found.influence, (last[:3] @ last[3:].T + second[:3] @ second[3:].T).detach(), rtol=1e-4)


def test_targets_of_several_numbers_are_half_squared_errors() -> None:
    model, x = net(2), torch.randn(6, 4).double()
    y = torch.randn(6, 2).double()
    found = influx.attribute(
        model, (x[:4], y[:4]), (x[4:], y[4:]), loss="mse", estimator="if_cg", curvature="hessian", damping=1e3
    )
    rows = []
    for a, b in zip(x, y, strict=True):
        loss = 0.5 * (model(a[None])[0] - b).square().sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    rows = torch.stack(rows)
    assert np.allclose(found.influence, rows[:4] @ rows[4:].T / 4 / 1e3, rtol=0.05)


def test_results_go_to_the_folder_or_nowhere(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = {"estimator": "if_exact", **PLAIN}
    found = influx.attribute(trained.model, trained.train, trained.test, **call)
    folder = found.folder
    assert folder.is_dir() and not any(tmp_path.iterdir())
    values = np.array(found.influence)
    del found
    gc.collect()
    assert not folder.exists()
    kept = influx.attribute(trained.model, trained.train, trained.test, outputs=tmp_path / "out", **call)
    assert {part.name for part in (tmp_path / "out").iterdir()} == {"problems", "runs"}
    loaded = influx.load(kept.folder)
    assert np.array_equal(loaded.influence, values) and loaded.record.command.startswith("influx.attribute(")
    with pytest.raises(DataError, match="call it again with outputs"):
        _ = loaded.problem


def test_what_cannot_be_is_said_in_one_sentence(trained: Trained) -> None:
    refused(ConfigError, "no_such_thing", estimator="no_such_thing")
    refused(ConfigError, "estimator.dampin", "did you mean 'damping'", dampin=0.1)
    refused(IncompatibleError, "tracincp needs several checkpoints", estimator="tracincp")
    refused(IncompatibleError, "lrs", estimator="tracincp", checkpoints=trained.states)
    refused(IncompatibleError, "loo needs retrain", "influx.run", estimator="loo")
    refused(IncompatibleError, "hydra needs trajectory", "tracincp", estimator="hydra")
    refused(IncompatibleError, "lds needs retrain", metrics=["lds"])
    refused(ConfigError, "lrs and steps belong", lrs=0.1)
    refused(ConfigError, "lrs has 2 numbers for 3 checkpoints", checkpoints=trained.states, lrs=[0.1, 0.2])


def test_inputs_that_do_not_fit_are_named(trained: Trained) -> None:
    x, y = trained.train
    refused(IncompatibleError, "does not take inputs of shape x (3,)", train=(x[:, :3], y), test=(x[:2, :3], y[:2]))
    refused(DataError, "x is float64 (4,)", "(3,)", test=(x[:2, :3], y[:2]))
    refused(DataError, "y must be classes from 0 to 2", train=(x, y + 1))
    refused(DataError, "x of train has 6 rows and y 5", train=(x, y[:5]))
    refused(DataError, "not finite", train=(x * torch.nan, y))
    refused(DataError, "targets named labels", train={"x": x}, test={"x": x})
    refused(DataError, "(x, y) or a dataset", train=iter([1]))
    refused(IncompatibleError, "one number per instance", loss=lambda f, y: F.cross_entropy(f, y))
    refused(IncompatibleError, "cross_entropy or mse", loss="crossentropy")
    refused(IncompatibleError, "loss='cross_entropy' needs whole-number", train=(x, y.double()), test=(x, y.double()))
    refused(IncompatibleError, "trainable parameters", model=nn.Flatten())


@pytest.mark.parametrize("loss", [lambda o, y: (o - y).square().mean(1), lambda o, y: (o - y).square().flatten()])
def test_a_loss_of_your_own_sees_the_shapes_that_are_given(loss: Any) -> None:
    model, x, y = net(1), torch.randn(6, 4).double(), torch.randn(6, 1).double()
    for targets in (y, torch.tensor([[-1], [1]] * 3)):
        made = problem_of(model, (x, targets), (x, targets), loss, None)
        assert made.own_task is not None
        found = made.own_task.loss(model(x), torch.from_numpy(made.data.train.y))
        assert torch.allclose(found, (model(x) - targets).square()[:, 0])


def test_a_loss_that_mixes_instances_is_refused(trained: Trained) -> None:
    x, y = torch.randn(4, 4).double(), torch.tensor([1.0, 1.0, 1.0, 2.0]).double()
    words = "the same loss alone as among others"
    given = {"model": net(1), "train": (x, y), "test": (x, y)}
    refused(IncompatibleError, words, loss=lambda o, y: (o - y).square().mean(1), **given)  # (n, 1) - (n,) is (n, n)


def test_a_dataset_made_of_tensors_is_read_by_its_items(trained: Trained) -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return 2 * x, y

    found = problem_of(trained.model, Doubled(*trained.train), trained.test, "cross_entropy", None)
    assert np.allclose(found.data.train.x, 2 * trained.train[0].numpy())


def test_what_is_frozen_and_losses_of_late_instances_make_another_problem(trained: Trained, tmp_path: Path) -> None:
    frozen = copy.deepcopy(trained.model)
    frozen[0].requires_grad_(False)
    last = {"loss": lambda o, y: F.cross_entropy(o, y, reduction="none") * (1 + (o[:, 0] == late[0]))}
    late = trained.model(trained.test[0]).detach()[-1]
    call = {"estimator": "if_ekfac", "self_influence": False, "outputs": tmp_path}
    runs = [
        influx.attribute(model, trained.train, trained.test, **call, **more)
        for model, more in ((trained.model, {}), (frozen, {}), (trained.model, last))
    ]
    assert len({run.problem.id for run in runs}) == 3


def test_frozen_layers_are_constants_to_products(trained: Trained) -> None:
    frozen = copy.deepcopy(trained.model)
    frozen[0].bias.requires_grad_(False)
    assert dense_layers(own_copy(frozen)) is None and dense_layers(own_copy(trained.model)) is not None
    found = influx.attribute(frozen, trained.train, trained.test, estimator="if_cg", curvature="hessian", damping=1e4)
    kept = [*range(20), *range(25, 43)]
    rows = [trained.rows(trained.model.state_dict(), *side)[:, kept] for side in (trained.train, trained.test)]
    assert np.allclose(found.influence, rows[0] @ rows[1].T / 6 / 1e4, rtol=1e-2)


def test_checkpoints_rates_and_steps_that_do_not_fit_are_refused(trained: Trained, tmp_path: Path) -> None:
    for step, state in zip((0, 20, 10), trained.states, strict=True):
        torch.save(state, tmp_path / f"{step}.pt")
    files = [tmp_path / f"{step}.pt" for step in (0, 20, 10)]
    base = {"estimator": "tracincp", "lrs": 0.1}
    refused(ConfigError, "holds 3 checkpoints; pass it alone", checkpoints=[tmp_path], **base)
    refused(ConfigError, "tell 0, 20, 10", checkpoints=files, **base)
    refused(ConfigError, "tell 0, unknown", checkpoints=[files[0], trained.states[1]], **base)
    for steps in ([10, 5, 0], [0, 5, 5], [-5, 0, 5], "012", [0.5, 1, 2], 3):
        refused(ConfigError, "steps must be increasing", checkpoints=trained.states, steps=steps, **base)
    for lrs in (float("nan"), -0.1, [0.1, np.inf, 0.1], "0.1", np.ones((3, 1)), []):
        refused(ConfigError, "lrs must be a finite number", checkpoints=trained.states, lrs=lrs, estimator="tracincp")
    refused(IncompatibleError, "model must be a torch.nn.Module", model=lambda x: x)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_rates_and_steps_may_be_arrays(trained: Trained, kind: Any) -> None:
    given = problem_of(trained.model, trained.train, trained.test, "cross_entropy", None)
    found = source_of(given, trained.states, kind([0.5, 0.25, 0.125]), kind([0, 4, 8]))(given.inner)
    assert [(one.step, one.rate) for one in found] == [(0, 0.5), (4, 0.25), (8, 0.125), (12, None)]


class Scaled(nn.Module):
    """Logits times a number that only the extra state of the module holds."""

    def __init__(self, told: type = Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.scale, self.told = nn.Linear(4, 3).double(), torch.ones(1).double(), told

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(x)

    def get_extra_state(self) -> Any:
        return self.scale if self.told is Tensor else {"scale": float(self.scale)}

    def set_extra_state(self, state: Any) -> None:
        self.scale = state.clone()


def test_extra_state_is_restored_if_it_is_a_tensor_and_refused_otherwise(trained: Trained) -> None:
    refused(IncompatibleError, "_extra_state is something else (of get_extra_state)", "buffer", model=Scaled(dict))
    with pytest.raises(IncompatibleError, match="get_extra_state"):
        state_of(Scaled(dict))
    model, states = Scaled(), []
    for scale in (3.0, 2.0):
        model.scale = torch.full((1,), scale).double()
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    found = influx.attribute(model, trained.train, trained.test, checkpoints=states, lrs=1.0, estimator="tracincp")
    model.scale = torch.full((1,), 3.0).double()
    rows = []
    for a, b in [*zip(*trained.train, strict=True), *zip(*trained.test, strict=True)]:
        loss = F.cross_entropy(model(a[None]), b[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    every = torch.stack(rows)
    assert np.allclose(found.influence, every[:6] @ every[6:].T, rtol=1e-6)


def test_sequences_have_no_gauss_newton_matrix_and_the_estimator_takes_what_they_have() -> None:
    torch.manual_seed(3)
    model, x = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 4)), torch.randint(0, 4, (4, 3))
    given = (model, (x[:3], x.roll(-1, 1)[:3]), (x[3:], x.roll(-1, 1)[3:]))
    found = influx.attribute(*given, estimator="if_exact")
    assert any("estimator.curvature=empirical_fisher was taken" in said for said in found.record.manifest["warnings"])
    with pytest.raises(IncompatibleError, match="has no Gauss-Newton matrix"):
        influx.attribute(*given, estimator="if_exact", curvature="ggn")
