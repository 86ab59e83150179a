"""What projected estimators leave to workers, further trainings and projected gradients: the bytes of one process."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx import api
from influx.engines import projected, stored, stored_ahead, trainings
from influx.engines.executor import Arrays, Finished, Place, Task
from influx.engines.executors.processes import Processes
from influx.engines.views import ended_at
from influx.errors import DataError
from influx.estimators.projected.trak import Trak
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.run import Run
from tests.engines.test_executors import TINY, Here, children
from tests.faults.conftest import leaving

PLAIN = [*(setting for setting in TINY if not setting.startswith(("truth", "metric"))), "truth=none", "metric=[]"]
ASKED = {
    "trak": ["estimator.dim=16", "estimator.models=3", "estimator.checkpoints=2"],
    "dtrak": ["estimator.dim=16", "estimator.models=2", "estimator.subset=0.5"],
    "tracinrp": ["estimator.dim=16", "estimator.store=float16"],
    "less": ["estimator.dim=16"],
    "logra": ["estimator.rank=3", "estimator.init=pca"],
}
KINDS = {"trak": ["training", "projections"], "tracinrp": ["projections", "similarity"]}
KINDS |= {"less": KINDS["tracinrp"], "dtrak": KINDS["trak"], "logra": ["projections"]}


@dataclass
class Backwards:
    """Workers that begin with the last block, in this process; ``stop`` of the blocks are done before one fails."""

    tasks: list[Task] = field(default_factory=list)
    served: dict[str, Any] | None = None
    stop: int | None = None
    spreads: bool = True

    def do(self, task: Task, finished: Finished) -> Iterator[tuple[int, Arrays]]:
        self.tasks.append(task)
        numbers = range(len(task.names))
        made = {number: task.do(number) for number in numbers[::-1]}
        for number in numbers[: self.stop]:
            yield number, made[number]
        if self.stop is not None:
            raise DataError("a worker is lost")

    def close(self, done: bool) -> None:
        """Nothing is held."""


@dataclass
class Held:
    """The most of what a function made that lived at once, by what is inside of it."""

    made: list[weakref.ref[Any]] = field(default_factory=list)
    most: int = 0

    def counting(self, function: Callable[..., Any], inside: Callable[[Any], Any]) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            found = function(*given)
            self.made.append(weakref.ref(inside(found)))
            gc.collect()  # of what is not frozen
            self.most = max(self.most, sum(one() is not None for one in self.made))
            return found

        return counted


def written(outputs: Path) -> dict[str, bytes]:
    """Bytes of influence, of everything that is stored projected, and of trained parameters."""
    files = [*outputs.glob("runs/tiny/*.npy"), *outputs.rglob("projected/*/*.npy")]
    files += outputs.glob("problems/*/checkpoints/*.safetensors")
    return {str(path.relative_to(outputs)): path.read_bytes() for path in files}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 instances, pieces of 8 and shards of 24."""
    monkeypatch.setattr(stored, "block_of", lambda *args: 4)
    monkeypatch.setattr("influx.engines.projections.block_of", lambda *args: 4)
    monkeypatch.setattr(stored, "SHARD_BYTES", 24 * 8 * 16)
    monkeypatch.setattr(stored_ahead, "ROWS", 8)


TRAK = Trak(dim=16, checkpoints=2, kind="rademacher")


def asked(below: Path, executor: Backwards | None) -> Run:
    toy = toys.train(below, toys.table(n_train=50), MLP(width=4), batch_size=25)
    run = toy.run(TRAK, "trak")
    return replace(run, bank=replace(run.bank, executor=executor)) if executor else run


@pytest.mark.usefixtures("small")
def test_shards_are_put_together_from_pieces(tmp_path: Path) -> None:
    expected = TRAK.estimate(asked(tmp_path / "one", None)).values
    executor = Backwards()
    found = TRAK.estimate(asked(tmp_path / "many", executor)).values
    np.testing.assert_array_equal(found, expected)
    assert written(tmp_path / "many") == written(tmp_path / "one") and len(written(tmp_path / "one")) == 2 * 3 * 2
    assert [len(task.names) for task in executor.tasks] == [2 * 7]  # shards of 24, 24 and 2, at two checkpoints
    TRAK.estimate(asked(tmp_path / "many", executor))
    assert len(executor.tasks) == 1  # all is there


@pytest.mark.usefixtures("small")
def test_only_whole_shards_are_written_and_the_next_run_makes_the_others(tmp_path: Path) -> None:
    TRAK.estimate(asked(tmp_path / "one", None))
    with pytest.raises(DataError, match="a worker is lost"):
        TRAK.estimate(asked(tmp_path / "many", Backwards(stop=5)))  # in the midst of the second shard
    expected, found = written(tmp_path / "one"), written(tmp_path / "many")
    assert len(found) == 2 and found.items() < expected.items()
    executor = Backwards()
    TRAK.estimate(asked(tmp_path / "many", executor))
    assert [len(task.names) for task in executor.tasks] == [2 * 7 - 3] and written(tmp_path / "many") == expected


@pytest.mark.usefixtures("small")
def test_one_trained_model_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, and its problem, has a copy of the data it was trained on."""
    models, problems = Held(), Held()
    monkeypatch.setattr(
        projected, "trained_on_part", models.counting(projected.trained_on_part, lambda run: run.fitted)
    )
    monkeypatch.setattr(trainings, "drawn_part", problems.counting(trainings.drawn_part, lambda problem: problem.data))
    executor = Backwards()
    gc.collect()
    gc.freeze()
    replace(TRAK, checkpoints=2, models=4, subset=0.5)._ahead(asked(tmp_path, executor), "margin")
    gc.unfreeze()
    assert [len(task.names) for task in executor.tasks] == [4, 4 * 2 * 7]
    assert models.most == 1 and problems.most <= 2  # a learner keeps the data that it saw last
    assert len(models.made) == 3 * 4 - 1  # to know their folders, for what is missing, and to compute


def test_a_worker_does_what_it_is_told_and_nothing_else(tmp_path: Path) -> None:
    worker = Backwards(served={"kind": "similarity"})
    TRAK.estimate(asked(tmp_path, worker))
    assert not worker.tasks  # what it reads is stored by now
    worker.served = {"kind": stored_ahead.KIND, "units": [["another", 0, 8, 4]]}
    with pytest.raises(DataError, match="the same files"):
        TRAK.estimate(asked(tmp_path, worker))


def test_a_view_that_workers_do_not_know_is_not_shared_out(tmp_path: Path) -> None:
    executor = Backwards()
    run = asked(tmp_path, executor)
    replace(TRAK, checkpoints=1).estimate(ended_at(run, run.states[1]))
    assert not executor.tasks


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ASKED)
def test_every_projected_estimator_has_the_bytes_of_one_process(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Here] = []

    def open_here(choice: Processes, place: Place) -> Here:
        opened.append(Here(place))
        return opened[-1]

    monkeypatch.setattr(Processes, "open", open_here)
    asked = [*PLAIN, f"estimator={name}", *ASKED[name]]
    api.run([*asked, f"paths.outputs={tmp_path / 'one'}"])
    api.run([*asked, "executor=processes", f"paths.outputs={tmp_path / 'many'}"])
    assert [task.told["kind"] for task in opened[0].tasks] == KINDS[name]
    expected = written(tmp_path / "one")
    assert any("projected" in path for path in expected) and written(tmp_path / "many") == expected


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads processes from /proc")
@pytest.mark.fault(6, "while gradients are projected: whole shards, the same bits")
def test_a_killed_worker_and_a_killed_run_leave_whole_shards(tmp_path: Path) -> None:
    asked = [*PLAIN, "dataset=digits", "dataset.n_train=1100", "estimator=trak"]
    asked += ["estimator.kind=rademacher", "estimator.dim=512", "estimator.models=2"]
    api.run([*asked, f"paths.outputs={tmp_path / 'one'}"])
    outputs = tmp_path / "many"
    command = [sys.executable, "-m", "influx", "run", *asked]
    command += ["executor=processes", "executor.workers=2", f"paths.outputs={outputs}"]

    def started() -> Any:
        return leaving(subprocess.Popen(command, stderr=subprocess.PIPE))

    def wait(process: subprocess.Popen[bytes], pattern: str) -> None:
        until = time.monotonic() + 300
        while not list(outputs.glob(pattern)):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)

    with started() as process:
        wait(process, "runs/tiny/workers/*/results/*/*.npz")
        os.kill(children(process)[0], signal.SIGKILL)  # it is replaced
        wait(process, "problems/*/projected/*/rows_*.npy")
        process.kill()
        process.communicate()
    with started() as process:
        assert process.communicate(timeout=300)[1] == b"" and process.returncode == 0
    expected = written(tmp_path / "one")
    assert sum("rows_" in path for path in expected) == 2 and written(outputs) == expected
