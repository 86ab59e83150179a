"""What the tools themselves read back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from influx import trackers
from tests.test_layers import imports
from tests.trackers.conftest import NUMBERS, SECRET, Finished

Make = Callable[..., Finished]


def written(folder: Path) -> bytes:
    """Bytes of all files below a folder."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_tensorboard_reads_every_number_once(finished: Make) -> None:
    pytest.importorskip("tensorboard")
    run = finished("tensorboard")
    run.track()
    run.track()
    assert run.warnings == ["something else"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run.folder / "trackers/tensorboard")).Reload()
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {name: [value] for name, value in NUMBERS.items()}
    assert SECRET.encode() not in written(run.folder / "trackers")


@pytest.mark.slow
def test_mlflow_reads_numbers_and_settings(finished: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    run = finished("mlflow")
    run.track()
    run.track()
    assert run.warnings == ["something else"]
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = MlflowClient(tracking_uri=(run.folder / "trackers/mlflow").as_uri())
        [experiment] = [e for e in client.search_experiments() if e.name == "influx"]
        [found] = client.search_runs([experiment.experiment_id])
    assert found.data.metrics == NUMBERS and found.info.status == "FINISHED"
    assert found.data.params["dataset.n_train"] == "40" and found.data.tags["problem"] == "abc"
    assert client.list_artifacts(found.info.run_id) == []
    assert SECRET.encode() not in written(run.folder / "trackers")


@pytest.mark.slow
def test_wandb_writes_one_offline_run_and_nothing_else(
    finished: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", SECRET * 6)
    monkeypatch.setenv("WANDB_MODE", "online")  # ours wins
    run = finished("wandb")
    run.track()
    run.track()
    assert run.warnings == ["something else"] and os.environ["WANDB_MODE"] == "online"
    [offline] = (run.folder / "trackers/wandb/wandb").glob("offline-run-*")
    assert not (offline / "files/report.html").exists(), "it holds the command and all settings"
    [log] = offline.glob("*.wandb")
    assert b"gas/spearman" in log.read_bytes() and b"dataset.n_train" in log.read_bytes()
    assert SECRET.encode() not in written(run.folder / "trackers")
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("path", sorted(Path(trackers.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_no_tracker_means_no_import(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(path, top=True)}
    assert found & {"torch", "tensorboard", "mlflow", "wandb"} == set()
