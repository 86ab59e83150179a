"""One run over the tasks of a Slurm array: tasks are killed and put back; the bytes are those of a local run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cluster.conftest import PATIENCE, TINY, Cluster, results, until

ARRAY = ("executor=slurm", "executor.workers=2", "executor.mem_gb=2", "executor.timeout_min=10", "executor.poll=0.5")
BANK = (*TINY, "estimator=random", "training.epochs=300")  # ten blocks of a second or so
GRADIENTS = (  # 24 shares of some tenths of a second
    "dataset=digits",
    "dataset.shape=image",
    "dataset.n_train=1200",
    "dataset.n_test=100",
    "model=cnn",
    "training.epochs=1",
    "training.batch_size=50",
    "training.checkpoints=12",
    "estimator=tracincp",
    "truth=none",
    "metric=[]",
    "baselines=[]",
    "threads=1",
    "quiet=true",
)
GAME = (  # ten blocks of coalitions, half a second each
    *(one for one in TINY if not one.startswith(("truth", "metric"))),
    "training.epochs=200",
    "estimator=banzhaf",
    "estimator.models=40",
    "truth=none",
    "metric=[]",
)


def blocks(outputs: Path) -> int:
    """Results of workers so far."""
    return len(list(outputs.glob("runs/*/workers/*/results/*/*.npz")))


@pytest.mark.parametrize("work", [pytest.param(BANK, id="loo bank"), pytest.param(GRADIENTS, id="tracincp")])
@pytest.mark.fault(5, "the same command goes on; the results are those of the local run")
@pytest.mark.fault(6, "its share is done again; the results are those of the local run")
def test_a_killed_task_and_a_killed_coordinator_cost_no_result(work: tuple[str, ...], cluster: Cluster) -> None:
    here, there = cluster.folder / "here", cluster.folder / "there"
    assert cluster.run("run", *work, f"paths.outputs={here}") == (0, "")
    command = ("run", *work, f"paths.outputs={there}", *ARRAY)
    coordinator = cluster.start(*command)

    victim = until(cluster.running, "a task runs")
    until(lambda: blocks(there) >= 1 or coordinator.poll() is not None, "a block is done")
    cluster.kill(victim)
    until(lambda: cluster.ended(victim), "Slurm sees that the task was killed")
    assert coordinator.poll() is None, "the coordinator gives a lost task's blocks to others"

    os.kill(coordinator.pid, signal.SIGKILL)
    coordinator.wait()
    (run,) = cluster.status(there / "runs").values()
    assert (run["status"], run["resumable"]) == ("killed", True)

    code, said = cluster.run(*command)
    assert code == 0, said
    assert results(there) == results(here)
    until(lambda: not cluster.jobs(), "no task is left in the queue")
    (run,) = cluster.status(there / "runs").values()
    assert run["status"] == "done"


@pytest.mark.fault(4, "a worker puts itself back into the queue and goes on; the results are those of the local run")
def test_a_worker_told_of_its_time_limit_puts_itself_back_and_a_game_costs_no_result(cluster: Cluster) -> None:
    here, there = cluster.folder / "here", cluster.folder / "there"
    code, said = cluster.run("run", *GAME, f"paths.outputs={here}")
    assert code == 0, said

    coordinator = cluster.start("run", *GAME, f"paths.outputs={there}", *ARRAY, "executor.workers=1")
    until(lambda: blocks(there) >= 1 or coordinator.poll() is not None, "a block is done")
    worker = cluster.running()
    assert worker is not None and coordinator.poll() is None, cluster.said
    cluster.signal(worker, "--batch", "--signal=USR1")  # what --signal of the array asks for
    until(lambda: cluster.told(worker)["Restarts"] == "1", "the worker is in the queue again")

    assert coordinator.wait(timeout=PATIENCE) == 0, cluster.said
    assert results(there) == results(here)
    assert "workers were lost" not in cluster.said
