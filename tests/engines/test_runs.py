"""Whole runs that meet changed data, other versions, and folders that say what they should not."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from influx import api, cli, manifest, pipeline
from influx.errors import ConfigError, DataError
from influx.store import Folder

TINY = ("dataset=iris", "dataset.n_train=30", "dataset.n_test=10")
SHORT = (
    *("training.epochs=2", "training.checkpoints=2", "training.batch_size=10", "model.width=4"),
    *("truth=none", "metric=[]", "baselines=[]", "quiet=true", "threads=1"),
)
MARKED = "import pathlib\npathlib.Path({marker!r}).touch()\n"
ESTIMATOR = """
from dataclasses import dataclass
from influx.estimators.baseline.random import Random

@dataclass(frozen=True, kw_only=True)
class Mine(Random):
    sigma: float = 1.0
"""


def run(outputs: Path, *overrides: str, **fields: Any) -> api.Result:
    return api.run([*TINY, *SHORT, f"paths.outputs={outputs}", *overrides], **fields)


def said(folder: Path) -> list[str]:
    warnings: list[str] = json.loads((folder / "manifest.json").read_text())["warnings"]
    return warnings


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run."""
    return run(tmp_path_factory.mktemp("finished") / "out").folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    outputs = shutil.copytree(finished_once.parents[1], tmp_path / "out")
    return outputs / "runs" / finished_once.name


def write_data(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    np.savez(path, x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])


def test_a_named_run_is_refused_when_its_data_have_changed(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    command = ["dataset=npz", f"dataset.path={file}", *SHORT, "name=mine", f"paths.outputs={tmp_path / 'out'}"]
    write_data(file, seed=0)
    influence = api.run(command).folder / "influence.npy"
    earlier = influence.read_bytes()
    write_data(file, seed=1)
    with pytest.raises(ConfigError, match="the data"):
        api.run(command)
    assert influence.read_bytes() == earlier
    api.run([*command, "overwrite=true"])
    later = influence.read_bytes()
    assert later != earlier
    api.run(command)
    assert influence.read_bytes() == later


def test_a_doubtful_result_is_marked_in_the_manifest(tmp_path: Path) -> None:
    folder = run(tmp_path, "optimizer.momentum=0.9").folder
    assert any("momentum 0.9" in sentence for sentence in said(folder))


def test_a_stage_reused_under_other_versions_warns(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finished / "report.html").unlink()
    run(finished.parents[1])
    assert said(finished) == []
    torch = manifest.versions()["torch"]
    monkeypatch.setattr(pipeline, "versions", lambda: manifest.versions() | {"torch": "0.1"})
    (finished / "report.html").unlink()
    run(finished.parents[1])
    wanted = f"stage estimate was made with torch {re.escape(torch)} \\(now 0\\.1\\)"
    assert any(re.match(wanted, sentence) for sentence in said(finished))


def test_a_run_without_a_place_for_outputs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(["run", *TINY, *SHORT, "paths.outputs=null"])
    assert left.value.code == 2
    assert "paths.outputs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_cannot_have_a_module_imported(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "executed"
    (tmp_path / "regress_hostile.py").write_text(MARKED.format(marker=str(marker)) + ESTIMATOR)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["trust"] = ["regress_hostile"]
    config["estimator"] = {"_target_": "regress_hostile.Mine", "sigma": 1.0}
    Folder(finished).write_text("config.yaml", yaml.safe_dump(config))  # with its checksum
    with pytest.raises(ConfigError, match="outside the trusted packages"):
        _ = api.load(finished).problem
    assert not marker.exists()
    assert "regress_hostile" not in sys.modules


def test_a_run_with_a_part_of_ones_own_can_be_opened_by_who_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "regress_mine.py").write_text(ESTIMATOR)
    (tmp_path / "estimator").mkdir()
    (tmp_path / "estimator" / "mine.yaml").write_text("_target_: regress_mine.Mine\nsigma: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = run(tmp_path / "out", "estimator=mine", "trust=[regress_mine]", config_dir=tmp_path)
    assert len(result.problem.train) == 30
    assert len(api.load(result.folder, trust=["regress_mine"]).problem.train) == 30
    with pytest.raises(ConfigError, match="outside the trusted packages"):
        _ = api.load(result.folder).problem


def test_a_run_whose_problem_is_gone_is_not_trained_again_by_looking(finished: Path) -> None:
    problems = finished.parents[1] / "problems"
    assert len(api.load(finished).problem.train) == 30
    shutil.rmtree(problems)
    result = api.load(finished)
    with pytest.raises(DataError, match="run it again"):
        _ = result.problem
    with pytest.raises(DataError):
        result.model()
    assert not list(problems.rglob("*.safetensors"))
