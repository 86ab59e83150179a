"""A finished run, made of nothing but what trackers read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from influx.config import Settings
from influx.manifest import Manifest
from influx.store import Folder
from influx.trackers import tracking
from influx.trackers.told import Told, Tracker

ROWS = [
    {"estimator": "gas", "metric": "spearman", "value": 0.5, "ci_low": 0.25, "ci_high": 0.75, "status": "ok"},
    {"estimator": "gas", "metric": "slope", "value": None, "ci_low": None, "ci_high": None, "status": "not applicable"},
    {"estimator": "random", "metric": "spearman", "value": -0.125, "ci_low": None, "ci_high": None, "status": "ok"},
]
NUMBERS = {
    "gas/spearman": 0.5,
    "gas/spearman.ci_low": 0.25,
    "gas/spearman.ci_high": 0.75,
    "random/spearman": -0.125,
    "gas/seconds": 1.5,
    "gas/trainings": 3.0,
}
SECRET = "hunter2"


@dataclass
class Finished:
    """Settings, folder and manifest of a run."""

    settings: Settings
    folder: Folder
    manifest: Manifest

    def track(self) -> None:
        """What the pipeline does at its end."""
        tracking.track(self.settings, self.folder, self.manifest)

    @property
    def warnings(self) -> list[str]:
        """Of the manifest on disk."""
        found: list[str] = Manifest(self.folder, {}).values["warnings"]
        return found


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., Finished]:
    """Makes a run that has the given trackers."""

    def make(*names: str) -> Finished:
        folder = Folder(tmp_path / "runs" / "one")
        folder.write_json("metrics.json", ROWS)
        folder.write_text("report.html", "<p>report</p>")
        cost = {"gas": {"seconds": 1.5, "peak_mb": None, "trainings": 3}}
        manifest = Manifest(folder, {"name": "one", "problem": {"id": "abc"}, "truth": "loo", "cost": cost})
        manifest.warn("something else")
        manifest.save("done")
        values: dict[str, Any] = {
            "trackers": list(names),
            "trust": [],
            "seed": 3,
            "dataset": {"_target_": "x.Y", "n_train": 40, "password": SECRET, "path": f"https://me:{SECRET}@host/a"},
            "executor": {"setup": [f"export TOKEN={SECRET}"]},
            "model": {"width": [8, 4]},
        }
        settings = Settings(values=values, choices={"dataset": "npz", "executor": "slurm"})
        return Finished(settings, folder, manifest)

    return make


@dataclass
class Fake:
    """Remembers what it was told and what lay in its folder; raises what it is given."""

    raises: BaseException | None = field(default=None, repr=False)
    told: list[Told] = field(default_factory=list, repr=False)
    waits: threading.Event | None = field(default=None, repr=False)
    project: str = "one"
    package: str = "json"
    extra: str = "influx[trackers]"

    def log(self, told: Told, folder: Path) -> str:
        assert list(folder.iterdir()) == []
        (folder / "begun").write_text("half")
        if self.waits is not None:
            self.waits.wait()
        if self.raises is not None:
            raise self.raises
        self.told.append(told)
        return "number"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Stands for every tracker."""
    made = Fake()

    def found(settings: Settings) -> Mapping[str, Tracker]:
        return dict.fromkeys(settings["trackers"], made)  # type: ignore[arg-type]

    monkeypatch.setattr(tracking, "trackers_of", found)
    return made
