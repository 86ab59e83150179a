"""Learning rates of all steps: recorded with the checkpoints, and summed by what stands for several steps."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import influx
from influx.errors import DataError, IncompatibleError
from influx.integrations.saving import Checkpoints
from influx.integrations.torch import Recorder
from influx.learners.torch.imported import Imported
from tests.own.nets import Trained, net

SCHEDULE = tuple(0.4 * (1 - step / 8) for step in range(8))  # linear, as Hugging Face's default
EVERY = 3
PARTS = (SCHEDULE[:3], SCHEDULE[3:6], SCHEDULE[6:])


class Decayed(Trained):
    """Eight full-batch steps with a rate that falls to nothing, recorded before every third of them."""

    def record(self, folder: Path) -> None:
        self.states, optimizer = [], torch.optim.SGD(self.model.parameters(), lr=SCHEDULE[0])
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 8)
        with Recorder(self.model, optimizer, folder, every=EVERY):
            for step in range(8):
                if step % EVERY == 0:
                    self.states.append({name: value.clone() for name, value in self.model.state_dict().items()})
                optimizer.zero_grad()
                F.cross_entropy(self.model(self.x), self.y).backward()
                optimizer.step()
                rates.step()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decayed, Path]:
    trained, folder = Decayed(), tmp_path_factory.mktemp("recorded")
    trained.record(folder)
    return trained, folder


def attributed(trained: Decayed, folder: Path, **settings: Any) -> influx.Attribution:
    return influx.attribute(trained.model, trained.train, trained.test, checkpoints=folder, **settings)


def doubts(found: Any) -> list[str]:
    return [said for said in found.record.manifest["warnings"] if "hold until the next checkpoint" in said]


def without_rates_between(folder: Path, to: Path) -> None:
    """As recorders of earlier versions wrote them."""
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            noted = opened.metadata()
        save_file(load_file(file), to / file.name, {name: noted[name] for name in ("step", "lr")})


def test_every_rate_is_read_back(recorded: tuple[Decayed, Path]) -> None:
    found = Imported(path=str(recorded[1])).loaded()
    assert [one.step for one in found] == [0, 3, 6, 8]
    assert [one.before for one in found] == [(), *map(pytest.approx, PARTS)]


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"weight": "calibrated"}, tuple(sum(part) / 6 for part in PARTS)),
        pytest.param({"lr_at": "segment_mean"}, tuple(np.mean(part) for part in PARTS), marks=pytest.mark.slow),
    ],
)
def test_sums_over_steps_are_exact(
    recorded: tuple[Decayed, Path], settings: dict[str, Any], weights: tuple[float, ...]
) -> None:
    trained, folder = recorded
    found = attributed(trained, folder, estimator="tracincp", **settings)
    assert np.allclose(found.influence, trained.tracin(trained.states, weights), rtol=1e-6)
    assert not doubts(found)


@pytest.mark.slow
def test_the_rate_before_a_checkpoint_is_that_of_the_step_that_led_to_it(recorded: tuple[Decayed, Path]) -> None:
    trained, folder = recorded
    found = attributed(trained, folder, estimator="tracincp", lr_at="prev")
    states = [*trained.states[1:], trained.model.state_dict()]
    assert np.allclose(found.influence, trained.tracin(states, (SCHEDULE[2], SCHEDULE[5], SCHEDULE[7])), rtol=1e-6)


@pytest.mark.slow
def test_source_sums_the_rates_of_its_segments(recorded: tuple[Decayed, Path]) -> None:
    trained, folder = recorded
    found = attributed(trained, folder, estimator="source", segments=2, self_influence=False)
    table = found.record.tables["segments"].frame
    assert table["rates"].to_numpy() == pytest.approx([sum(SCHEDULE[:4]), sum(SCHEDULE[4:])])
    assert not doubts(found)


@pytest.mark.slow
def test_files_without_them_are_read_as_before_and_told_where_it_matters(
    recorded: tuple[Decayed, Path], tmp_path: Path
) -> None:
    trained, folder = recorded
    without_rates_between(folder, tmp_path)
    calibrated = attributed(trained, tmp_path, estimator="tracincp", weight="calibrated")
    held = (3 * SCHEDULE[0] / 6, 3 * SCHEDULE[3] / 6, 2 * SCHEDULE[6] / 6)
    assert np.allclose(calibrated.influence, trained.tracin(trained.states, held), rtol=1e-6)
    assert len(doubts(calibrated)) == 1


@pytest.mark.slow
def test_nothing_is_told_of_rates_that_are_not_between_checkpoints_or_that_are_given(
    recorded: tuple[Decayed, Path], tmp_path: Path
) -> None:
    trained, folder = recorded
    without_rates_between(folder, tmp_path)
    assert not doubts(attributed(trained, tmp_path, estimator="tracincp"))
    given = attributed(trained, tmp_path, estimator="tracincp", weight="calibrated", lrs=[0.3, 0.2, 0.1, 0.0])
    assert not doubts(given)
    assert np.allclose(given.influence, trained.tracin(trained.states, (0.15, 0.1, 0.2 / 6)), rtol=1e-6)


def test_batches_of_one_update_count_once_and_numbers_left_out_have_the_last_rate(tmp_path: Path) -> None:
    saved, groups = Checkpoints(tmp_path, 4), [{"lr": 0.0}]
    saved.save(4, net(), groups)  # a training that goes on after four updates
    for step, rate in ((4, 0.5), (4, 0.5), (5, 0.5), (7, 0.25), (7, 0.25)):
        saved.note(step, [{"lr": rate}])
    saved.save(9, net(), groups)
    first, second = Imported(path=str(tmp_path)).loaded()
    assert first.before == () and second.before == (0.5, 0.5, 0.5, 0.25, 0.25)


def test_groups_with_rates_of_their_own_have_none_in_common(tmp_path: Path) -> None:
    saved, groups = Checkpoints(tmp_path, 1), [{"lr": 0.1}, {"lr": 0.2}]
    saved.save(0, net(), groups)
    saved.note(0, groups)
    saved.save(1, net(), groups)
    assert [(one.rate, one.before, one.groups) for one in Imported(path=str(tmp_path)).loaded()] == [
        (None, (), (0.1, 0.2))
    ] * 2


@pytest.mark.parametrize("noted", ["[[9, [0.1]]]", "[[-1, [0.1]]]", "[[1, 0.1]]", "[3]", "x"])
def test_rates_that_are_none_are_refused(tmp_path: Path, noted: str) -> None:
    save_file(net().state_dict(), tmp_path / "a.safetensors", {"step": "3", "lr": "[0.1]", "lr_before": noted})
    with pytest.raises(DataError, match="save it again"):
        Imported(path=str(tmp_path)).loaded()


def test_the_callback_of_hugging_face_notes_every_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(TrainerCallback=object))  # slow to import
    monkeypatch.delitem(sys.modules, "influx.integrations.transformers", raising=False)
    callback = importlib.import_module("influx.integrations.transformers").InfluxCallback(tmp_path, every=EVERY)
    kept = {"model": net(), "optimizer": SimpleNamespace(param_groups=[{"lr": 0.0}], state={}), "lr_scheduler": None}
    for step, rate in enumerate(SCHEDULE):
        kept["optimizer"].param_groups[0]["lr"] = rate
        callback.on_step_begin(None, SimpleNamespace(global_step=step, is_world_process_zero=True), None, **kept)
    callback.on_train_end(None, SimpleNamespace(global_step=8, is_world_process_zero=True), None, **kept)
    assert [one.before for one in Imported(path=str(tmp_path)).loaded()] == [(), *PARTS]
    with safe_open(tmp_path / "step_00000003.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["lr_before"]) == [[1, [rate]] for rate in PARTS[0]]
    sys.modules.pop("influx.integrations.transformers")  # made of what is no trainer


def written(folder: Path, step: int, rate: float, state: dict[str, Any]) -> Path:
    """What a training script saves after ``step`` updates, its scheduler having set the rate of the next."""
    file = folder / f"{step}.pt"
    torch.save({"model": state, "step": step, "optimizer": {"param_groups": [{"lr": rate, "params": [0]}]}}, file)
    return file


def test_one_file_with_the_rate_after_the_last_update_does_not_stand_for_a_training(
    recorded: tuple[Decayed, Path], tmp_path: Path
) -> None:
    trained, _ = recorded
    file = written(tmp_path, 8, 0.0, trained.model.state_dict())
    with pytest.raises(IncompatibleError, match=r"one was given.*lrs and steps"):
        attributed(trained, file, estimator="source", segments=1)


@pytest.mark.slow
def test_one_file_with_all_rates_or_with_given_ones_stands_for_a_training(
    recorded: tuple[Decayed, Path], tmp_path: Path
) -> None:
    trained, folder = recorded
    file = tmp_path / "step_00000008.safetensors"
    runs = json.dumps([[1, [rate]] for rate in SCHEDULE])
    save_file(trained.model.state_dict(), file, {"step": "8", "lr": "[0.0]", "lr_before": runs})
    found = attributed(trained, file, estimator="source", segments=1, self_influence=False)
    assert found.record.tables["segments"].frame["rates"].to_numpy() == pytest.approx([sum(SCHEDULE)])
    save_file(load_file(folder / file.name), file, {"step": "8", "lr": "[0.05]", "lr_before": "[[2, [0.1]]]"})
    with pytest.raises(IncompatibleError, match="one was given"):
        attributed(trained, file, estimator="source", segments=1)
    given = attributed(trained, file, estimator="source", segments=1, self_influence=False, lrs=0.1)
    assert given.record.tables["segments"].frame["rates"].to_numpy() == pytest.approx([0.8])
    assert not doubts(found) and not doubts(given)


@pytest.mark.slow
def test_a_rate_that_one_file_tells_is_doubted(recorded: tuple[Decayed, Path], tmp_path: Path) -> None:
    """Of two files, the last having another rate; and of one, followed by the model that is passed."""
    trained, _ = recorded
    file = written(tmp_path, 4, SCHEDULE[4], trained.states[1])
    assert len(doubts(attributed(trained, file, estimator="tracincp", weight="calibrated"))) == 1
    written(tmp_path, 8, 0.0, trained.model.state_dict())
    assert len(doubts(attributed(trained, tmp_path, estimator="tracincp", weight="calibrated"))) == 1
    written(tmp_path, 8, SCHEDULE[4], trained.model.state_dict())
    assert not doubts(attributed(trained, tmp_path, estimator="tracincp", weight="calibrated"))


@pytest.mark.slow
@pytest.mark.parametrize("listed", [False, True])
def test_rates_between_count_back_from_the_step_of_their_file_alone(
    recorded: tuple[Decayed, Path], listed: bool
) -> None:
    """Steps that are given replace those of files; rates of the files' own steps belong to none of them."""
    trained, folder = recorded
    files: Any = sorted(folder.glob("*.safetensors")) if listed else folder
    found = attributed(trained, files, estimator="tracincp", weight="calibrated", steps=[0, 1, 2, 3])
    weights = tuple(SCHEDULE[step] / 6 for step in (0, 3, 6))
    assert np.allclose(found.influence, trained.tracin(trained.states, weights), rtol=1e-6)
    found = attributed(trained, files, estimator="tracincp", weight="calibrated", steps=[0, 3, 7, 9])
    weights = (sum(SCHEDULE[:3]) / 6, 4 * SCHEDULE[3] / 6, 2 * SCHEDULE[6] / 6)
    assert np.allclose(found.influence, trained.tracin(trained.states, weights), rtol=1e-6)
    assert len(doubts(found)) == 1
