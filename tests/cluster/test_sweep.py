"""A sweep whose jobs Slurm runs: killed jobs, a killed launcher, failures. The bytes are those of a sweep run here."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.cluster.conftest import PATIENCE, TINY, Cluster, call, results, until

SLURM = (
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.timeout_min=10",
)
TWELVE = ("estimator=random,tracincp,gradient_norm", "seed=1,2,3,4", "sweep.name=twelve")


def sweep(outputs: Path) -> Path:
    return outputs / "sweeps" / "twelve"


def done(run: Path) -> bool:
    return bool(json.loads((run / "manifest.json").read_text())["status"] == "done")


@pytest.mark.fault(5, "killed: told as such, done again by the same command; done jobs are left alone")
@pytest.mark.fault(9, "status tells the truth without the launcher; the same command goes on")
def test_a_sweep_survives_the_loss_of_a_job_and_of_its_launcher(cluster: Cluster) -> None:
    here, there = cluster.folder / "here", cluster.folder / "there"
    code, said = cluster.run("run", "-m", *TINY, *TWELVE, f"paths.outputs={here}")
    assert code == 0, said

    command = ("run", "-m", *TINY, *TWELVE, f"paths.outputs={there}", *SLURM)
    launcher = cluster.start(*command)
    until(lambda: list((there / "runs").glob("*/report.html")) or launcher.poll() is not None, "a job is done")
    victim = until(cluster.running, "a job runs")
    cluster.kill(victim)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    until(lambda: cluster.ended(victim), "Slurm sees that the job was killed")
    for job, state in cluster.jobs().items():  # what waits never starts: there is something left for later
        if state == "PENDING":
            call("scancel", job)
    told = {name: row["status"] for name, row in cluster.status(sweep(there)).items()}
    assert len(told) == 12
    assert "done" in told.values() and "killed" in told.values(), told
    until(lambda: not cluster.jobs(), "what ran without its launcher has ended")
    told = {name: row["status"] for name, row in cluster.status(sweep(there)).items()}
    finished = {name for name, status in told.items() if status == "done"}
    assert set(told.values()) <= {"done", "killed", "pending"}, told
    assert 1 <= len(finished) <= 11

    over = [path for path in there.glob("runs/*/influence.npy") if done(path.parent)]  # the killed one may be redone
    when = {path: path.stat().st_mtime_ns for path in over}
    assert when
    code, said = cluster.run(*command)
    assert code == 0, said
    assert {row["status"] for row in cluster.status(sweep(there)).values()} == {"done"}
    assert results(there) == results(here)
    assert {path: path.stat().st_mtime_ns for path in when} == when, "what was done is not done again"


@pytest.mark.fault(8, "recorded as failed, the others go on, exit code 5; FAILED in Slurm, traceback in the log")
def test_failed_and_killed_jobs_are_told_by_slurm_by_their_logs_and_by_the_sweep(cluster: Cluster) -> None:
    outputs = cluster.folder / "out"
    rates = ("optimizer.lr=0.1,0.2,1e38", "estimator=random", "sweep.name=twelve")
    launcher = cluster.start("run", "-m", *TINY, "quiet=false", *rates, f"paths.outputs={outputs}", *SLURM)
    cluster.kill(until(lambda: cluster.running(element=0), "the first job runs"))
    code, said = launcher.wait(), cluster.said
    assert code == 5, said
    assert re.search(r"^optimizer\.lr=0\.1 +killed", said, re.MULTILINE), said
    assert re.search(r"^optimizer\.lr=1e\+38 +failed", said, re.MULTILINE), said
    told = cluster.status(sweep(outputs)).values()
    assert [row["status"] for row in told] == ["killed", "done", "failed"]
    (log,) = [path for path in outputs.rglob("*_log.err") if "Traceback" in path.read_text()]
    assert "NumericalError: the training loss is inf" in log.read_text()
    job = log.name.removesuffix("_0_log.err")
    assert until(lambda: cluster.ended(job), "the job has left Slurm") == "FAILED"


@pytest.mark.fault(4, "a job stops in order, goes back into the queue and goes on; the bytes are those of a sweep here")
@pytest.mark.fault(5, "a job stops in order, goes back into the queue and goes on; the bytes are those of a sweep here")
def test_a_job_told_of_its_time_limit_stops_in_order_and_goes_on_from_the_queue(cluster: Cluster) -> None:
    here, there = cluster.folder / "here", cluster.folder / "there"
    asked = (*TINY, "training.epochs=200", "estimator=random", "seed=1,2", "sweep.name=twelve")
    code, said = cluster.run("run", "-m", *asked, f"paths.outputs={here}")
    assert code == 0, said

    launcher = cluster.start("run", "-m", *asked, f"paths.outputs={there}", *SLURM)

    def at_work() -> bool:
        return len({path.parent for path in there.glob("problems/*/retrain/block_*.npz")}) == 2

    until(lambda: at_work() or launcher.poll() is not None, "both jobs have done something")
    job = cluster.running()
    assert job is not None and launcher.poll() is None, cluster.said
    cluster.signal(job, "--signal=USR2")  # what submitit asks for
    until(lambda: cluster.told(job)["Restarts"] == "1", "the job is in the queue again")
    told = {row["status"] for row in cluster.status(sweep(there)).values()}
    assert told <= {"interrupted", "queued", "running", "done"} and told != {"done"}, told

    assert launcher.wait(timeout=PATIENCE) == 0, cluster.said
    assert until(lambda: cluster.ended(job), "the job has left Slurm") == "COMPLETED"
    assert {row["status"] for row in cluster.status(sweep(there)).values()} == {"done"}
    assert results(there) == results(here)
