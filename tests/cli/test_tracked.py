"""``trackers=[…]`` on the command line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import TINY, Influx


def manifest(own: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((own / "runs/tiny/manifest.json").read_text())
    return found


def test_a_run_survives_its_tracker_and_logs_when_told_again(influx: Influx, own: Path) -> None:
    pytest.importorskip("tensorboard")
    place = own / "runs/tiny/trackers"
    place.write_text("in the way")  # a real failure: no folder can be made here
    command = ("run", *TINY, f"paths.outputs={own}", "name=tiny", "trackers=[tensorboard]")
    done = influx(*command)
    assert done.code == 0 and "warning: tracker tensorboard: the run is not logged" in done.out
    assert manifest(own)["status"] == "done" and "Not a directory" in manifest(own)["warnings"][-1]
    place.unlink()
    assert influx(*command, "quiet=true").code == 0
    assert not [said for said in manifest(own)["warnings"] if said.startswith("tracker")]
    [events] = (place / "tensorboard").glob("events.*")
    before = events.read_bytes()
    assert influx(*command, "quiet=true").code == 0
    assert [path.read_bytes() for path in (place / "tensorboard").iterdir()] == [before]


def test_a_missing_package_ends_the_command_before_any_work(
    influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    done = influx("run", *TINY, "trackers=[wandb]")
    assert done.code == 2 and done.out == ""
    assert done.err == (
        "error: trackers=[wandb] needs the package wandb, which is not installed; "
        "pip install 'influx[trackers]', or leave wandb out\n"
    )
    assert list(tmp_path.iterdir()) == []
