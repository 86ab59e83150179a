"""``training=imported``: checkpoints of others are found, read without running code, and matched with a model."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import influx
from influx.errors import ConfigError, DataError, UserError
from influx.learners.torch import foreign
from influx.learners.torch.imported import Imported

SMALL = ["dataset=iris", "model=linear", "baselines=[]", "quiet=true"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))


def state(add: float = 0.0) -> dict[str, Tensor]:
    return {name: value + add for name, value in net().state_dict().items()}


def said(error: type[UserError], call: Any, *arguments: Any) -> str:
    with pytest.raises(error) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def read(path: Path, prefix: str | None = None) -> dict[str, Tensor]:
    return Imported(path=str(path), prefix=prefix).loaded()[-1].read(net())


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.ckpt", "weights.bin", "weights.safetensors"])
@pytest.mark.parametrize("begins", ["", "module.", "_orig_mod.", "net.body."])
def test_names_are_matched_whatever_they_begin_with(tmp_path: Path, name: str, begins: str) -> None:
    held = {begins + key: value for key, value in state(1).items()}
    save_file(held, tmp_path / name) if name.endswith("safetensors") else torch.save(held, tmp_path / name)
    for prefix in (None, begins):
        found = read(tmp_path / name, prefix)
        assert found.keys() == state().keys() and all(torch.equal(found[k], v) for k, v in state(1).items())


def test_a_lightning_checkpoint_tells_its_step_and_its_rate(tmp_path: Path) -> None:
    held = {"model." + key: value for key, value in state().items()} | {"metric.total": torch.zeros(1)}
    optimizer = {"param_groups": [{"lr": 0.25, "params": [0]}], "state": {}}
    torch.save({"state_dict": held, "global_step": 70, "optimizer_states": [optimizer]}, tmp_path / "epoch=1.ckpt")
    (one,) = Imported(path=str(tmp_path / "*.ckpt")).loaded()
    assert (one.step, one.rate) == (70, 0.25) and one.read(net()).keys() == state().keys()


def test_a_training_script_may_put_parameters_below_a_name(tmp_path: Path) -> None:
    group = {"lr": 0.5, "params": [0]}
    torch.save({"model": state(2), "step": 3, "optimizer": {"param_groups": [group]}}, tmp_path / "a.pt")
    (one,) = Imported(path=str(tmp_path)).loaded()
    assert (one.step, one.rate) == (3, 0.5) and torch.equal(one.read(net())["0.bias"], state(2)["0.bias"])


def test_folders_of_hugging_face_are_read_with_what_its_trainer_logged(tmp_path: Path) -> None:
    for step in (10, 9, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file(state(step), folder / "model.safetensors")
        logged = {"global_step": step, "log_history": [{"learning_rate": 1 / step, "step": step}, {"loss": 1.0}]}
        (folder / "trainer_state.json").write_text(json.dumps(logged))
    found = Imported(path=str(tmp_path)).loaded()
    assert [(one.step, one.rate) for one in found] == [(9, 1 / 9), (10, 0.1), (100, 0.01)]
    assert torch.equal(found[0].read(net())["1.bias"], state(9)["1.bias"])


def test_steps_come_from_names_or_settings_and_rates_from_settings(tmp_path: Path) -> None:
    for step in (2, 10):
        torch.save(state(step), tmp_path / f"epoch_{step}.pt")
    found = Imported(path=str(tmp_path), lr=0.1).loaded()
    assert [(one.step, one.rate) for one in found] == [(2, 0.1), (10, 0.1)]
    found = Imported(path=str(tmp_path), lr=[0.3, 0.2], steps=[0, 7]).loaded()
    assert [(one.step, one.rate) for one in found] == [(0, 0.3), (7, 0.2)]
    assert "2 checkpoints" in said(ConfigError, Imported(path=str(tmp_path), steps=[1]).loaded)
    torch.save(state(), tmp_path / "last.pt")
    assert "set training.steps" in said(ConfigError, Imported(path=str(tmp_path)).loaded)
    assert "holds no checkpoint" in said(ConfigError, Imported(path=str(tmp_path / "x*.pt")).loaded)
    with pytest.raises(ConfigError, match="increasing"):
        Imported(steps=[3, 2])
    with pytest.raises(ConfigError, match="finite"):
        Imported(lr=float("nan"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"0.weight": None}, "lacks '0.weight'"),
        ({"0.weight": torch.zeros(3, 3)}, "'0.weight' of shape (3, 3), the model's is (3, 2)"),
        ({"1.bias": torch.tensor([1.0, torch.nan])}, "not finite in '1.bias'"),
        ({"2.bias": torch.zeros(2)}, "holds '2.bias', which the model has not"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_with_the_tensor(tmp_path: Path, change: Any, words: str) -> None:
    held = {name: value for name, value in (state() | change).items() if value is not None}
    save_file(held, tmp_path / "a.safetensors")
    assert words in said(DataError, read, tmp_path / "a.safetensors")


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path, write: str) -> None:
    file, mark = tmp_path / "a.pt", tmp_path / "mark"
    held = {"state_dict": state(), "extra": Bomb(mark)}
    torch.save(held, file) if write == "torch" else file.write_bytes(pickle.dumps(held))
    assert "never loaded" in said(DataError, foreign.find, str(file)) and not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"\x08\0\0\0\0\0\0\0{}      "])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in said(DataError, read, tmp_path / name)


def test_a_tied_parameter_is_taken_for_all_its_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    model[1].weight = model[0].weight
    save_file({"0.weight": torch.ones(4, 3)}, tmp_path / "a.safetensors")
    (one,) = Imported(path=str(tmp_path)).loaded()
    assert torch.equal(one.read(model)["1.weight"], torch.ones(4, 3))


def test_checkpoints_of_a_run_of_influx_give_the_same_influence(tmp_path: Path) -> None:
    out = [f"paths.outputs={tmp_path}/out", "truth=none", "metric=[]", "training.checkpoints=3", "training.epochs=2"]
    first = influx.run([*SMALL, *out, "estimator=tracincp"])
    saved = first.checkpoints[0].path.parent
    imported = [f"paths.outputs={tmp_path}/again", "experiment=imported", f"training.path={saved}"]
    again = influx.run([*SMALL, *imported, "estimator=tracincp"])
    assert np.array_equal(first.influence, again.influence)
    assert [c.step for c in again.checkpoints] == [c.step for c in first.checkpoints]
    assert influx.load(again.folder).problem.id == again.problem.id != first.problem.id


def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, tmp_path / "a.safetensors")
    base = [*SMALL, f"paths.outputs={tmp_path}/out", "training=imported", f"training.path={tmp_path}/a.safetensors"]
    rest = ["truth=none", "metric=[]"]
    assert "truth=loo needs retrain" in said(UserError, influx.run, [*base, "estimator=if_exact"])
    assert "lds needs retrain" in said(UserError, influx.run, [*base, "truth=none", "estimator=if_exact"])
    assert "magic needs trajectory" in said(UserError, influx.run, [*base, *rest, "estimator=magic"])
    assert "needs several checkpoints" in said(UserError, influx.run, [*base, *rest, "estimator=tracincp"])
    assert "training.path must name" in said(UserError, influx.run, [*base, *rest, "training.path=null"])
    assert "a lacks" not in said(UserError, influx.run, [*base, *rest, "estimator=if_exact", "model=mlp"])
    assert not (tmp_path / "out").exists()


def test_steps_are_read_from_names_only_where_they_are_plain(tmp_path: Path) -> None:
    for name in ("step9_loss0.52.pt", "step10_loss0.31.pt"):
        torch.save(state(), tmp_path / name)
    assert [one.step for one in Imported(path=str(tmp_path)).loaded()] == [9, 10]
    for name in ("a/epoch1_loss0.52.pt", "a/epoch2_loss0.31.pt", "b/state_0.pt", "b/state_5.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(state(), tmp_path / name)
    assert "set training.steps" in said(ConfigError, Imported(path=str(tmp_path / "a")).loaded)
    assert [one.step for one in Imported(path=str(tmp_path / "b")).loaded()] == [0, 5]  # no states of influx


@pytest.mark.parametrize(
    "beside",
    [
        {"optimizer_states": {"x": 1}},
        {"optimizer": torch.zeros(2)},
        {"optimizer": {"param_groups": [1, 2]}},
        {"optimizer": {"param_groups": [{"lr": "x"}]}, "step": True},
        {"step": -5},
    ],
)
def test_what_is_no_state_of_an_optimizer_tells_nothing(tmp_path: Path, beside: dict[str, Any]) -> None:
    torch.save({"model": state()} | beside, tmp_path / "a.pt")
    found = foreign.described(tmp_path / "a.pt")
    assert (found.step, found.rates) == (None, None)


def test_a_rate_that_is_no_number_is_refused(tmp_path: Path) -> None:
    torch.save({"model": state(), "optimizer": {"param_groups": [{"lr": float("nan")}]}}, tmp_path / "a.pt")
    assert "set training.lr" in said(DataError, Imported(path=str(tmp_path)).loaded)


@pytest.mark.parametrize("error", [IndexError, AssertionError, TypeError, struct.error])
def test_whatever_a_damaged_file_makes_the_reader_raise_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fails(*arguments: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fails)
    assert "cannot read the checkpoint" in said(DataError, foreign.unpickled, tmp_path / "a.pt")
