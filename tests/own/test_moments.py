"""What optimizers remember: recorded with checkpoints of others, and used by what makes updates of gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import influx
from influx.errors import DataError, IncompatibleError
from influx.integrations.torch import Recorder
from influx.learners.torch.moments import beside
from tests.own.nets import Trained, net

MADE: dict[str, Any] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
}


class Stepped(Trained):
    """Four full-batch steps; what torch's own optimizer is before each of them."""

    def record(self, folder: Path, kind: str, moments: bool = True) -> list[dict[str, Any]]:
        optimizer = MADE[kind](self.model.parameters())
        self.states, remembered = [], []
        with Recorder(self.model, optimizer, folder, every=2, moments=moments):
            for _ in range(4):
                self.states.append({name: value.clone() for name, value in self.model.state_dict().items()})
                remembered.append({"model": self.states[-1], "optimizer": copy.deepcopy(optimizer.state_dict())})
                optimizer.zero_grad()
                F.cross_entropy(self.model(self.x), self.y).backward()
                optimizer.step()
        return [*remembered, {"model": self.model.state_dict(), "optimizer": copy.deepcopy(optimizer.state_dict())}]


def update(state: dict[str, Any], gradient: Tensor) -> Tensor:
    """What torch's Adam does to parameters when this gradient is next, at rate 1."""
    model = net()
    model.load_state_dict(state["model"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    held = copy.deepcopy(state["optimizer"])
    held["param_groups"][0]["lr"] = 1.0
    optimizer.load_state_dict(held)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    start = 0
    for p in model.parameters():
        p.grad = gradient[start : start + p.numel()].view_as(p)
        start += p.numel()
    optimizer.step()
    return before - torch.cat([p.detach().flatten() for p in model.parameters()])


def less(trained: Stepped, states: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Σ_c 0.1 cos(∇L(z_j), Γ(∇L(z_i)))."""
    total = torch.zeros(6, 2).double()
    for state in states:
        left, right = trained.rows(state["model"], *trained.train), trained.rows(state["model"], *trained.test)
        updates = torch.stack([update(state, gradient) for gradient in left])
        total += 0.1 * F.normalize(updates, dim=1) @ F.normalize(right, dim=1).T
    return total.numpy()


def attributed(trained: Stepped, checkpoints: Any, **more: Any) -> influx.Attribution:
    settings: dict[str, Any] = {"estimator": "less", "kind": "none", "optimizer": "adam"} | more
    return influx.attribute(trained.model, trained.train, trained.test, checkpoints=checkpoints, **settings)


@pytest.mark.slow
def test_less_uses_the_moments_that_were_recorded(tmp_path: Path) -> None:
    trained = Stepped()
    remembered = trained.record(tmp_path, "adam")
    assert sorted(file.name for file in tmp_path.glob("state_*")) == [
        f"state_0000000{n}.safetensors" for n in (0, 2, 4)
    ]
    found = attributed(trained, tmp_path)
    assert np.allclose(found.influence, less(trained, [remembered[0], remembered[2]]), rtol=1e-6)
    assert [c.step for c in found.checkpoints] == [0, 2, 4]


@pytest.mark.slow
def test_a_pattern_and_a_file_of_a_training_script_are_read_alike(tmp_path: Path) -> None:
    trained = Stepped()
    remembered = trained.record(tmp_path / "recorded", "adam")
    wanted = less(trained, [remembered[0], remembered[2]])
    assert np.allclose(attributed(trained, f"{tmp_path}/recorded/*.safetensors").influence, wanted, rtol=1e-6)
    for step in (0, 2, 4):
        torch.save(remembered[step] | {"step": step}, tmp_path / f"{step}.pt")
    assert np.allclose(attributed(trained, f"{tmp_path}/*.pt").influence, wanted, rtol=1e-6)


def test_momentum_is_recorded_as_torch_has_it(tmp_path: Path) -> None:
    trained = Stepped()
    remembered = trained.record(tmp_path, "momentum")
    held = beside(tmp_path / "step_00000004.safetensors", None, "")
    assert held is not None and held.slots == {"momentum"}
    module = net()
    (found,) = held.read(module, {"momentum": [torch.zeros_like(p) for p in module.parameters()]}).values()
    wanted = [state["momentum_buffer"] for state in remembered[4]["optimizer"]["state"].values()]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    none = beside(tmp_path / "step_00000000.safetensors", None, "")
    assert none is not None and not none.slots


def test_without_them_less_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    trained = Stepped()
    remembered = trained.record(tmp_path, "adam", moments=False)
    assert not list(tmp_path.glob("state_*"))
    with pytest.raises(IncompatibleError, match="moments=True"):
        attributed(trained, tmp_path)
    states = [each["model"] for each in remembered]
    with pytest.raises(IncompatibleError, match="moments=True"):
        attributed(trained, states, lrs=0.1)


@pytest.mark.parametrize("change", ["shape", "name", "number"])
def test_moments_of_another_model_are_refused(tmp_path: Path, change: str) -> None:
    Stepped().record(tmp_path, "momentum")
    file = tmp_path / "state_00000004.safetensors"
    held = load_file(file)
    if change == "shape":
        held["momentum.0.bias"] = torch.zeros(4).double()
    elif change == "name":
        held["momentum.3.bias"] = torch.zeros(5).double()
    else:
        held["momentum.0.bias"][0] = torch.nan
    save_file(held, file)
    module, found = net(), beside(tmp_path / "step_00000004.safetensors", None, "")
    assert found is not None
    with pytest.raises(DataError, match="not that of this model"):
        found.read(module, {"momentum": [torch.zeros_like(p) for p in module.parameters()]})
    file.write_bytes(b"{}")
    with pytest.raises(DataError, match="cannot read the optimizer state"):
        beside(tmp_path / "step_00000004.safetensors", None, "")


def test_a_parameter_that_was_never_updated_has_zeros_in_a_training_scripts_file(tmp_path: Path) -> None:
    """Parameters are numbered there, and torch keeps nothing of one that never had a gradient."""
    module = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(3, 1), torch.nn.Linear(2, 1)])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module[2](module[0](torch.ones(4, 2))).sum().backward()
    optimizer.step()
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "1.pt")
    held = beside(tmp_path / "1.pt", None, "")
    assert held is not None
    (found,) = held.read(module, {"momentum": [torch.zeros_like(p) for p in module.parameters()]}).values()
    wanted = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    fewer = module[:2]
    with pytest.raises(DataError, match="not that of this model"):
        held.read(fewer, {"momentum": [torch.zeros_like(p) for p in fewer.parameters()]})
