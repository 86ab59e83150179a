"""Launchers of sweeps: what they start and where it may write, and what is said where they cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from influx.commands.alive import Queue
from influx.commands.launch import Guard
from influx.commands.submitted import Submitted, answered, without_sigint
from influx.commands.sweep import Entry, Sweep
from influx.commands.task import Task
from influx.config import load_choice
from influx.errors import Busy
from tests.cli.conftest import ROOT, Influx
from tests.cli.sweeps import SMALL, squeue, sweep_of, told


def test_slurm_that_does_not_answer_stops_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, monkeypatch, "exit 1")
    monkeypatch.setattr("influx.commands.submitted.PAUSE", 0.0)
    sweep = sweep_of(tmp_path / "s", a=Entry(slurm="7_1"), b=Entry())
    with pytest.raises(Busy, match=r"7_1.*squeue does not answer"):
        answered(sweep, Queue(every=60.0), ["a", "b"])
    assert (tmp_path / "asked").read_text() == "asked\n" * 3
    assert set(answered(sweep, Queue(), ["b"])) == {"a", "b"}


def test_without_squeue_a_resume_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("influx.commands.submitted.PAUSE", 60.0)  # nothing is waited for
    sweep = sweep_of(tmp_path / "s", a=Entry(slurm="7_1"))
    with pytest.raises(Busy, match=r"7_1.*squeue is not on PATH; run the command on a machine of the cluster"):
        answered(sweep, Queue(), ["a"])
    assert told(tmp_path / "s") == {"a": "pending"}


@pytest.mark.fault(38, "one sentence with the command that is missing")
def test_without_slurm_the_launcher_for_it_is_refused(
    influx: Influx, ran: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = influx("run", "-m", *SMALL, "hydra/launcher=submitit_slurm", "seed=0,1", "quiet=true")
    assert done.code == 2 and done.err.count("\n") == 1 and ran == []
    assert "needs the command sbatch, which is not on PATH; run on a machine of the cluster" in done.err


@pytest.mark.parametrize("before", [None, "0"])
def test_launchers_start_processes_that_import_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    task = Task(folder=tmp_path, left_out=frozenset(), config_dir=None, stop=False, place="worker")
    seen = []
    for module, method in (("hydra_plugins.submitit", "_submit"), ("hydra_plugins.joblib", "_feed")):
        inner: Any = type("Inner", (), {"__module__": module})()
        guard = Guard(inner, Sweep(tmp_path), task, {}, False, True)
        monkeypatch.setattr(guard, method, lambda jobs, first: seen.append(os.environ["PYTHONSAFEPATH"]))
        guard._launch({"a": ["seed=1"]}, 0)
    assert seen == ["1", "1"] and os.environ.get("PYTHONSAFEPATH") == before


def test_processes_handed_over_do_not_see_ctrl_c() -> None:
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with without_sigint():
        inside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert inside.stdout == "True\n" and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra/launcher=submitit_slurm", "seed=1"], "write influx run -m hydra/launcher=submitit_slurm seed=1"),
        (["-m", "hydra/launcher=ray", "seed=1,2"], "pip install hydra-ray-launcher"),
        (["-m", "sweep.name=../x", "seed=1,2"], "sweep.name must be letters"),
        (["-m", "sweep.on_error=go", "seed=1,2"], "continue or stop"),
        (["-m", "name=x", "seed=1,2"], "sweep.name names the sweep"),
        (["-m", "seed=1,1"], "let each value occur once"),
        (["-m", "seed=1,2", "hydra.sweep.dir=elsewhere"], "hydra.sweep.dir must be below paths.outputs"),
        pytest.param(
            ["-m", "seed=1,2", "++hydra.sweep.dir=outputs/../elsewhere"],
            "hydra.sweep.dir must be below paths.outputs",
            marks=pytest.mark.slow,
        ),
        (["-m", "seed=1,2", "hydra.run.dir=/elsewhere"], "hydra.run.dir must be below paths.outputs"),
        pytest.param(
            ["-m", "seed=1,2", "hydra.sweep.subdir=../x"], "hydra.sweep.subdir cannot be set", marks=pytest.mark.slow
        ),
        (["-m", "seed=1,2", "hydra.sweep={subdir:../x}"], "hydra.sweep.subdir cannot be set"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_a_sweep_cannot_do_is_refused(influx: Influx, arguments: Sequence[str], said: str, tmp_path: Path) -> None:
    done = influx("run", *arguments)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_hydra_may_write_below_the_outputs_and_nowhere_else(influx: Influx, ran: list[int], tmp_path: Path) -> None:
    command = ("run", "-m", *SMALL, "seed=0,1", "quiet=true")
    assert influx(*command, "hydra.sweep.dir=outputs/mine").code == 0 and ran == [0, 1]
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "out.yaml").write_text(
        "# @package _global_\nhydra:\n  sweep:\n    dir: elsewhere\n    subdir: ../x\n"
    )
    done = influx(*command, "--config-dir", tmp_path / "conf", "experiment=out")
    assert done.code == 2 and "hydra.sweep.subdir cannot be set" in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"conf", "outputs"}


@pytest.mark.fault(38, "one line with the package to install")
def test_a_launcher_that_is_not_installed_is_named(influx: Influx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("influx.commands.multirun._installed", lambda module: False)
    done = influx("run", "-m", "hydra/launcher=joblib", "seed=0,1")
    assert done.code == 2 and "pip install hydra-joblib-launcher" in done.err


@pytest.mark.parametrize("name", ["joblib", "submitit_local", "submitit_slurm"])
def test_ready_launchers_have_the_settings_of_their_plug_ins(name: str) -> None:
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()
    schema = ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node
    ours = load_choice("hydra/launcher", name)
    assert set(ours) == set(schema) and ours["_target_"] == schema["_target_"]


@pytest.mark.parametrize("how", ["in order", "too late"])
@pytest.mark.fault(4, "saved and put back into the queue")
@pytest.mark.fault(5, "saved and put back into the queue")
def test_a_time_limit_stops_a_submitted_job_and_puts_it_back(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    from influx import interrupts

    said: list[str] = []

    def launcher() -> SimpleNamespace:
        os.kill(os.getpid(), signal.SIGUSR2)
        for _ in range(200):
            time.sleep(0.01)
            if how == "in order":
                try:
                    interrupts.check()
                except Exception:
                    said.append("left in order")
                    sys.exit(143)
        return SimpleNamespace(return_value=None)

    def requeue(signum: int, frame: object) -> None:
        said.append("put back")
        sys.exit(-1)

    before = {s: signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGALRM)}
    signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit) as left:
            Submitted(launcher, grace=0.1 if how == "too late" else 60.0)()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    assert left.value.code == -1 and said == (["left in order"] if how == "in order" else []) + ["put back"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
@pytest.mark.fault(31, "the same bytes at once as one after the other")
def test_a_sweep_in_other_processes_ends_like_one_here(tmp_path: Path, launcher: str) -> None:
    jobs = ("estimator=tracincp,loss", "optimizer.lr=0.1,1e38", "threads=1", "quiet=true")
    small = [o for o in SMALL if not o.startswith("truth")]

    def run(outputs: str, *more: str) -> subprocess.CompletedProcess[str]:
        arguments = [*small, "truth.budget=6", *jobs, f"paths.outputs={outputs}", *more]
        return subprocess.run(
            [sys.executable, "-P", "-m", "influx", "run", "-m", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    (tmp_path / "socket.py").write_text("raise ImportError('taken from the current folder')\n")
    here, there = run("here"), run("there", f"hydra/launcher={launcher}")
    assert here.returncode == there.returncode == 5
    assert there.stderr.count("lower optimizer.lr") == 2 and "2 jobs failed" in there.stderr
    arrays = sorted((tmp_path / "here").rglob("*.npy"))
    assert len(arrays) >= 4
    for path in arrays:
        assert path.read_bytes() == (tmp_path / "there" / path.relative_to(tmp_path / "here")).read_bytes()
    [sweep] = (tmp_path / "there" / "sweeps").iterdir()
    assert sorted(told(sweep).values()) == ["done", "done", "failed", "failed"]
    jobs_now = json.loads((sweep / "manifest.json").read_text())["jobs"].values()
    assert [bool(job.get("run")) for job in jobs_now] == [job["status"] == "done" for job in jobs_now]
    if launcher == "submitit_local":
        logs = [path.read_text() for path in sweep.rglob("*.err")]
        assert sum("NumericalError" in log and "Traceback" in log for log in logs) == 2
