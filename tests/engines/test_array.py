"""Shares in a job array of Slurm: what is lost is submitted again, and what stops it is said in one sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from influx.engines.executor import Place
from influx.engines.executors.queue import Queue
from influx.engines.executors.slurm import Slurm
from influx.engines.executors.trouble import raised, told_error
from influx.errors import ConfigError, DataError, NumericalError, UserError
from tests.engines.spreading import doubled, exchange_with, watched


def test_lost_shares_are_submitted_again_until_retries_are_used_up(tmp_path: Path) -> None:
    task = doubled(["a", "b", "c"])
    exchange = exchange_with(tmp_path, task, {0: "7_0"})
    exchange.claim("b", "7_0")
    exchange.claim("c", "7_1")
    (exchange.logs / "7_0.txt").write_text("module: command not found\n")
    watch, queue = watched(exchange, task, [{"7_1": "RUNNING"}, None, {"7_1": "RUNNING"}, {}])
    given = []
    with pytest.raises(UserError, match=r"3 times in a row.*7_0\.txt \(module: command not found\)"):
        for number, _ in watch.go():
            given.append(number)
            assert exchange.claimed(["b", "c"]) == {"c": "7_1"}  # that of a job which is gone was taken back
    assert given == [0] and queue.submitted == [1, 1, 2]


def test_nothing_is_submitted_while_an_earlier_array_does_the_work(tmp_path: Path) -> None:
    task = doubled(["a", "b"])
    exchange = exchange_with(tmp_path, task, {0: "7_0", 1: "7_1"})
    watch, queue = watched(exchange, task, [{"7_0": "RUNNING", "7_1": "PENDING"}])
    assert [(number, arrays["x"].item()) for number, arrays in watch.go()] == [(0, 0), (1, 2)]
    assert queue.submitted == [] and not exchange.has("a"), "what was taken is removed"


def test_an_error_of_a_worker_is_that_of_the_run(tmp_path: Path) -> None:
    told = told_error(NumericalError("step 3 diverged"))
    assert isinstance(raised(told, tmp_path), NumericalError) and str(raised(told, tmp_path)) == "step 3 diverged"
    assert "log.txt shows where" in str(raised(told_error(KeyError("x")), tmp_path / "log.txt"))
    exchange = exchange_with(tmp_path, task := doubled(["a"]), {})
    exchange.report("7_0", DataError("the data changed"))
    watch, _ = watched(exchange, task, [{"7_0": "RUNNING"}])
    with pytest.raises(DataError, match="the data changed"):
        list(watch.go())


def test_an_error_of_a_machine_is_a_lost_worker(tmp_path: Path) -> None:
    exchange = exchange_with(tmp_path, task := doubled(["a"]), {})
    exchange.report("7_0", RuntimeError("no device"))
    watch, queue = watched(exchange, task, [{}])
    with pytest.raises(UserError, match=rf"3 times in a row.*on {re.escape(os.uname().nodename)}.*no device"):
        list(watch.go())
    assert queue.submitted == [1, 1, 1]


def test_a_job_that_never_starts_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "7_0 RUNNING None\n7_1 PENDING (JobHeldUser)\n7_2 PENDING Resources\n7_3 PENDING launch failed held\n"
    queue = Queue(Slurm(), tmp_path)
    monkeypatch.setattr(queue, "_call", lambda *command: subprocess.CompletedProcess(command, 0, said, ""))
    assert queue.jobs() == {"7_0": "RUNNING", "7_2": "PENDING"}


@pytest.mark.fault(38, "one sentence with the command that is missing; nothing is written")
def test_without_slurm_the_missing_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    array = Slurm().open(Place(path=tmp_path / "runs" / "workers", settings={}))
    for command in ("sbatch", "squeue", "scancel"):
        with pytest.raises(UserError, match=f"executor=slurm needs the command {command}, which is not on PATH; run"):
            list(array.do(doubled(["a", "b"]), lambda number: None))
        array.close(False)  # asks nothing of a Slurm that is not there
        assert not (tmp_path / "runs").exists()
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / command).touch(0o755)


def test_a_command_of_slurm_that_breaks_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(Slurm(), tmp_path)
    (tmp_path / "squeue").write_bytes(b"\x00")
    (tmp_path / "squeue").chmod(0o755)
    for path, why in ((tmp_path, "Exec format error"), (tmp_path / "none", "No such file or directory")):
        monkeypatch.setenv("PATH", str(path))
        queue._warned = False
        assert queue.jobs() is None and f"squeue does not answer (squeue: {why})" in caplog.text


@pytest.mark.fault(16, "a share that is listed before it is seen is waited for")
def test_a_result_that_is_listed_before_it_is_seen_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = doubled(["a", "b"])
    exchange = exchange_with(tmp_path, task, {0: "7_0", 1: "7_1"})
    exchange.claim("a", "7_0")
    path, looks = exchange.results / "7_0" / "a.npz", 0
    late = path.rename(tmp_path / "late.npz")
    watch, queue = watched(exchange, task, [{"7_0": "RUNNING", "7_1": "RUNNING"}])
    answer = queue.jobs

    def jobs() -> dict[str, str] | None:
        nonlocal looks
        looks += 1
        if looks == 3:
            late.rename(path)
        return answer()

    monkeypatch.setattr(queue, "jobs", jobs)
    monkeypatch.setattr("influx.engines.executors.slurm.TICK_SECONDS", 0.01)
    assert [(number, arrays["x"].item()) for number, arrays in watch.go()] == [(0, 0), (1, 2)]
    assert looks >= 3 and queue.submitted == []


def test_what_there_is_behind_an_error_is_handed_on_before_it_is_raised(tmp_path: Path) -> None:
    task = doubled(["a", "b", "c"])
    exchange = exchange_with(tmp_path, task, {1: "7_1", 2: "7_2"})
    exchange.report("7_0", DataError("the data changed"))
    watch, _ = watched(exchange, task, [{"7_0": "RUNNING"}])
    given = []
    with pytest.raises(DataError, match="the data changed"):
        for number, _ in watch.go():
            given.append(number)
    assert given == [1, 2]


def test_the_script_of_an_array_asks_for_what_is_set(tmp_path: Path) -> None:
    choice = Slurm(mem_gb=0.5, timeout_min=5, gpus_per_task=1, partition="a b", setup=["module load cuda"])
    lines = Queue(choice, tmp_path / "it's").script().splitlines()
    assert {"#SBATCH --mem=512M", "#SBATCH --time=5", "#SBATCH --gpus-per-task=1", "module load cuda"} < set(lines)
    assert "#SBATCH '--partition=a b'" in lines
    assert lines[-1].startswith(f"exec {sys.executable} -P -m influx.worker ")
    with pytest.raises(ConfigError, match=r"executor\.account"):
        Slurm(account="me\nrm -rf ~")
    with pytest.raises(UserError, match="control characters"):
        Queue(choice, tmp_path / "a\nb").script()
