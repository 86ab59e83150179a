"""A tiny finished run, and the means to run it again in this process or another."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import AnyStr

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
    record: Callable[[str, object], None] = lambda name, value: None  # for the table of faults

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
        said = self.capfd.readouterr().err
        self.record("said", noted(left.value.code, said, self.outputs.parent))
        return left.value.code, said

    def digests(self) -> dict[str, str]:
        """See ``result_digests``."""
        return result_digests(self.outputs)

    def log(self) -> str:
        """What ``log.txt`` holds."""
        return (self.run_folder / "log.txt").read_text()

    def start(self, *more: str, quiet: bool = True) -> AbstractContextManager[subprocess.Popen[str]]:
        """Run in a process of its own."""
        overrides = [*TINY, f"quiet={str(quiet).lower()}", f"paths.outputs={self.outputs}", *more]
        return start(overrides)


def noted(code: int, said: str, folder: Path) -> str:
    """How a command ended, for the table of faults: exit code, and an error or a warning without the test's folder."""
    first = said.strip().partition("\n")[0].replace(f"{folder}/", "")
    return f"exit code {code}" + (f", {first}" if first.startswith(("error: ", "warning: ")) else "")


def start(overrides: list[str]) -> AbstractContextManager[subprocess.Popen[str]]:
    """``influx run`` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "influx", "run", *overrides],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return leaving(process)


@contextmanager
def leaving(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """A process that does not outlive the block, whatever happens there; its pipes are closed."""
    with process:
        try:
            yield process
        finally:
            process.kill()  # nothing to a process that was waited for


def lives(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one undisturbed run."""
    from influx.api import run

    outputs = tmp_path_factory.mktemp("finished") / "out"
    run([*TINY, "quiet=true", f"paths.outputs={outputs}"])
    return outputs


@pytest.fixture
def fresh(tmp_path: Path, capfd: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]) -> Program:
    """Nothing has run yet."""
    return Program(tmp_path / "out", capfd, record_property)


@pytest.fixture
def finished(fresh: Program, finished_once: Path) -> Program:
    """The run is done; a copy that a test may damage."""
    shutil.copytree(finished_once, fresh.outputs)
    return fresh


@pytest.fixture
def expected(finished_once: Path) -> dict[str, str]:
    """Digests of the undisturbed run."""
    return result_digests(finished_once)
