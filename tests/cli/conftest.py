"""Calling the command line, in this process and in its own, and one small finished run to look at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from influx import cli
from influx.config import Settings

ROOT = Path(__file__).parents[2]
TINY = (
    "dataset=iris",
    "dataset.n_train=40",
    "dataset.n_test=10",
    "training.epochs=3",
    "training.checkpoints=2",
    "truth.budget=8",
    "truth.ceiling_budget=4",
    "metric.lds.subsets=6",
    "metric.lds.n_boot=100",
    "metric.agreement.n_boot=100",
    "metric.guarantee.n_boot=100",
    "baselines=[random]",
)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Influx = Callable[..., Done]
Holder = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def influx(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Influx:
    """Runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # restored afterwards: multirun sets it
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("INFLUX_DEBUG", raising=False)

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Done(left.value.code, captured.out, captured.err)

    return call


def spawn(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=60,
    )


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Seeds of the jobs of sweeps that were run; their runs are empty folders."""
    seeds: list[int] = []

    def execute(settings: Settings) -> Path:
        seeds.append(settings["seed"])
        folder = tmp_path / "outputs" / "runs" / str(settings["seed"])
        folder.mkdir(parents=True, exist_ok=True)
        if settings["optimizer"]["lr"] > 1:
            raise ValueError("no such row")
        return folder

    monkeypatch.setattr("influx.pipeline.execute", execute)
    return seeds


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.communicate("\n")


@pytest.fixture
def hold() -> Holder:
    """Another process holds the lock of a folder inside the block."""
    return _hold


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs with one finished run, for reading only."""
    folder = tmp_path_factory.mktemp("finished") / "outputs"
    with pytest.raises(SystemExit) as left:
        cli.main(["run", *TINY, f"paths.outputs={folder}", "quiet=true", "name=tiny"])
    assert left.value.code == 0
    return folder


@pytest.fixture
def own(outputs: Path, tmp_path: Path) -> Path:
    """A copy of the outputs to change."""
    return shutil.copytree(outputs, tmp_path / "outputs")


def make_old(folder: Path, days: float) -> None:
    """Move everything in a folder that far into the past."""
    then = time.time() - days * 86400
    for path in (folder, *folder.iterdir()):
        os.utime(path, (then, then))
