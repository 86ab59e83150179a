"""A real Slurm, which ``scripts/slurm_local start`` gives, and what jobs, launchers and results look like from outside.

Run as ``eval "$(scripts/slurm_local start)" && pytest -m cluster tests/cluster``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.faults.conftest import ROOT, bank_rows, leaving, lives, result_digests

T = TypeVar("T")
TINY = (
    "dataset=iris",
    "dataset.n_train=40",
    "dataset.n_test=20",
    "model.width=4",
    "training.epochs=6",
    "training.batch_size=10",
    "training.checkpoints=4",
    "training.block=4",
    "truth.ceiling_budget=0",
    "metric=[agreement]",
    "baselines=[]",
    "threads=1",
    "quiet=true",
)
PATIENCE = 240.0  # seconds for anything to happen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs Slurm."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def until(happens: Callable[[], T], what: str) -> T:
    """The first true value of ``happens``."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = happens()
        if value:
            return value
        time.sleep(0.1)
    pytest.fail(f"within {PATIENCE:.0f} s: {what}")


def call(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def results(outputs: Path) -> dict[str, str]:
    """Digests of what runs and problems hold and of every row of the problems' banks.

    Without ``config.yaml``, which says where the work was done.
    """
    kept = {
        name: digest
        for name, digest in result_digests(outputs).items()
        if name.startswith(("runs/", "problems/")) and not name.endswith("config.yaml")
    }
    for block in outputs.glob("problems/*/retrain/*.npz"):
        kept |= {f"{block.parents[1].name}/{row}": digest for row, digest in bank_rows(block).items()}
    return kept


def _is_python(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("python")
    except OSError:  # it has ended
        return False


@dataclass
class Cluster:
    """Slurm, and runs whose working folder is ``folder``: only their jobs are looked at."""

    folder: Path
    processes: ExitStack

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """``influx`` in a process that does not outlive the test; what it says is in ``said.txt``."""
        with (self.folder / "said.txt").open("w") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "influx", *arguments],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
                text=True,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        return self.processes.enter_context(leaving(process))

    @property
    def said(self) -> str:
        """What the last one has said."""
        return (self.folder / "said.txt").read_text()

    def run(self, *arguments: str) -> tuple[int, str]:
        """``influx`` to its end: exit code and what it said."""
        code = self.start(*arguments).wait(timeout=PATIENCE)
        return code, self.said

    def jobs(self) -> dict[str, str]:
        """State of every job that waits or runs, by its number."""
        return {number: state for number, _, state in self._listed()}

    def running(self, element: int | None = None) -> str | None:
        """Number of a job that runs; of an array's element where one is named."""
        for number, place, state in self._listed():
            if state == "RUNNING" and element in (None, int(place)):
                return number
        return None

    def _listed(self) -> list[tuple[str, str, str]]:
        listed = [line.split("|") for line in call("squeue", "-h", "-r", "-o", "%A|%K|%T|%Z").splitlines()]
        return [(number, element, state) for number, element, state, place in listed if place == str(self.folder)]

    def pids(self, job: str) -> list[int]:
        """Processes of a job, without Slurm's own."""
        listed = subprocess.run(["scontrol", "listpids", job], capture_output=True, text=True, check=False).stdout
        return [pid for pid in (int(line.split()[0]) for line in listed.splitlines()[1:]) if lives(pid)]

    def kill(self, job: str) -> None:
        """SIGKILL to all processes of a job at once.

        They are stopped first: Slurm, seeing the first of them die, would ask the others to end with SIGTERM. The
        last that Slurm starts, Python, must be there: one that it starts meanwhile would be asked so too.
        """
        until(lambda: any(_is_python(pid) for pid in self.pids(job)), f"job {job} has come to influx")
        stopped: set[int] = set()
        while new := set(until(lambda: self.pids(job), f"job {job} has processes")) - stopped:
            for pid in new:
                os.kill(pid, signal.SIGSTOP)
            stopped |= new
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)

    def told(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job, also where its number stands for its whole array too."""
        lines = call("scontrol", "--oneliner", "show", "job", job).splitlines()
        (line,) = [line for line in lines if line.startswith(f"JobId={job} ")] or lines
        return dict(field.split("=", 1) for field in line.split() if "=" in field)

    def signal(self, job: str, *options: str) -> None:
        """Send a signal as Slurm does before a time limit."""
        told = self.told(job)
        call("scancel", *options, f"{told['ArrayJobId']}_{told['ArrayTaskId']}")

    def ended(self, job: str) -> str | None:
        """How a job has ended for Slurm; None while it runs or leaves."""
        state = self.told(job)["JobState"]
        return None if state in ("RUNNING", "COMPLETING", "PENDING") else state

    def status(self, folder: Path) -> dict[str, dict[str, str]]:
        """What ``influx status`` says, by the name of the job."""
        said = call(sys.executable, "-m", "influx", "status", str(folder), "--json")
        return {row["name"]: row for row in json.loads(said)}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Slurm with an idle node; whatever a test leaves there is cancelled."""
    remedy = 'start one with: eval "$(scripts/slurm_local start)"'
    try:
        call("sinfo", "-h", "-o", "%t")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(f"no Slurm answers ({error}); {remedy}")
    with ExitStack() as processes:
        found = Cluster(tmp_path, processes)
        yield found
    for job in found.jobs():
        subprocess.run(["scancel", job], check=False)
