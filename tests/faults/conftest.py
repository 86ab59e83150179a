"""A tiny finished run, and the means to run it again in this process or another."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from influx.cli import main
from influx.store import file_hash

ROOT = Path(__file__).parents[2]
TINY = (
    "dataset=iris",
    "dataset.n_train=40",
    "dataset.n_test=20",
    "model.width=4",
    "training.epochs=5",
    "training.batch_size=10",
    "training.checkpoints=4",
    "training.block=16",
    "truth.ceiling_budget=0",
    "metric=[agreement]",
    "baselines=[random]",
    "name=tiny",
    "threads=1",
)
EVENTFUL = re.compile(rb"outputs: .*|\"git\": .*")  # place of the outputs, state of the checkout


def result_digests(outputs: Path) -> dict[str, str]:
    """Hash of every result by path, and of every row of the retraining bank by its key.

    Left out is what tells about the course of events: log, manifest, report, locks and files set aside.
    """
    eventful = ("log.txt", "manifest.json", "report.html", ".lock", "checksums.json")
    found: dict[str, str] = {}
    for path in sorted(p for p in outputs.rglob("*") if p.is_file()):
        if path.parent.name == "retrain" and path.suffix == ".npz":
            found |= bank_rows(path)
        elif path.name not in eventful and ".corrupt" not in path.name:
            found[str(path.relative_to(outputs))] = hashlib.sha256(EVENTFUL.sub(b"", path.read_bytes())).hexdigest()
    return found


def bank_rows(path: Path) -> dict[str, str]:
    """Hash of each row of a block by its key."""
    with np.load(path, allow_pickle=False) as arrays:
        parts = [arrays[name] for name in sorted(arrays.files) if name.startswith(("train_", "test_"))]
        keys = arrays["keys"].tolist()
    return {
        f"bank/{k}": hashlib.sha256(b"".join(p[i].tobytes() for p in parts)).hexdigest() for i, k in enumerate(keys)
    }


def one(outputs: Path, pattern: str) -> Path:
    """The first of the files that fit."""
    return min(outputs.glob(pattern))


def vouch_for(path: Path) -> None:
    """Enter a file's present bytes into its folder's checksums, as somebody who means harm would."""
    listed = json.loads((path.parent / "checksums.json").read_text())
    (path.parent / "checksums.json").write_text(json.dumps(listed | {path.name: file_hash(path)}))


@dataclass(frozen=True)
class Program:
    """Runs of the tiny request with one outputs folder."""

    outputs: Path
    capfd: pytest.CaptureFixture[str]

    @property
    def run_folder(self) -> Path:
        """Of the run."""
        return self.outputs / "runs" / "tiny"

    @property
    def problem(self) -> Path:
        """Folder of the trained problem."""
        (folder,) = (self.outputs / "problems").iterdir()
        return folder

    def again(self, *more: str) -> tuple[int, str]:
        """Run in this process: exit code and what it said on stderr."""
        with pytest.raises(SystemExit) as left:
            main(["run", *TINY, "quiet=true", f"paths.outputs={self.outputs}", *more])
        assert isinstance(left.value.code, int)
        return left.value.code, self.capfd.readouterr().err

    def digests(self) -> dict[str, str]:
        """See ``result_digests``."""
        return result_digests(self.outputs)

    def log(self) -> str:
        """What ``log.txt`` holds."""
        return (self.run_folder / "log.txt").read_text()

    def start(self, *more: str, quiet: bool = True) -> subprocess.Popen[str]:
        """Run in a process of its own."""
        overrides = [*TINY, f"quiet={str(quiet).lower()}", f"paths.outputs={self.outputs}", *more]
        return start(overrides)


def start(overrides: list[str]) -> subprocess.Popen[str]:
    """``influx run`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "influx", "run", *overrides],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one undisturbed run."""
    from influx.api import run

    outputs = tmp_path_factory.mktemp("finished") / "out"
    run([*TINY, "quiet=true", f"paths.outputs={outputs}"])
    return outputs


@pytest.fixture
def fresh(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Program:
    """Nothing has run yet."""
    return Program(tmp_path / "out", capfd)


@pytest.fixture
def finished(fresh: Program, finished_once: Path) -> Program:
    """The run is done; a copy that a test may damage."""
    shutil.copytree(finished_once, fresh.outputs)
    return fresh


@pytest.fixture
def expected(finished_once: Path) -> dict[str, str]:
    """Digests of the undisturbed run."""
    return result_digests(finished_once)
