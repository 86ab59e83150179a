"""Work that other processes do: the same bits as here, whatever dies, and one sentence when it cannot be done."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from influx import api
from influx.engines import shares
from influx.engines.executor import Arrays, Finished, Place, Task
from influx.engines.executors.exchange import Exchange
from influx.engines.executors.processes import Crew, Processes
from influx.errors import DataError, UserError
from influx.worker import Claiming, Told, Wanted, serve
from tests.engines.spreading import doubled, exchange_with
from tests.faults.conftest import leaving, lives

TINY = (
    "dataset=iris",
    "dataset.n_train=60",
    "dataset.n_test=20",
    "model.width=4",
    "training.epochs=3",
    "training.batch_size=10",
    "training.checkpoints=3",
    "training.block=16",
    "truth.ceiling_budget=0",
    "metric=[agreement]",
    "baselines=[]",
    "name=tiny",
    "threads=1",
    "quiet=true",
)
RESULTS = ("influence.npy", "stderr.npy", "truth.npy", "self_influence.csv", "curves.parquet", "metrics.csv")


@dataclass
class Listed:
    """Blocks in a given order."""

    wanted: list[Wanted]
    finished: list[str] = field(default_factory=list)

    def next(self) -> Wanted | None:
        return self.wanted.pop(0) if self.wanted else None

    def done(self, name: str) -> None:
        self.finished.append(name)

    def gone(self, task: str) -> None:
        raise AssertionError

    def failed(self, error: BaseException) -> None:
        raise AssertionError


@dataclass
class Here:
    """A worker in this process, which does the blocks from the last to the first."""

    place: Place
    tasks: list[Task] = field(default_factory=list)
    spreads: bool = True
    served: None = None

    def do(self, task: Task, finished: Finished) -> Iterator[tuple[int, Arrays]]:
        self.tasks.append(task)
        exchange = Exchange.of(self.place)
        folder = exchange.describe(task, self.place.settings)
        numbers = list(range(len(task.names)))
        serve(exchange, Listed([(folder.path.name, number) for number in numbers[::-1]]), "here")
        for number in numbers:
            arrays = exchange.read(task.names[number])
            assert arrays is not None
            finished(number)
            yield number, arrays

    def close(self, done: bool) -> None:
        if done:
            Exchange.of(self.place).clear()


def results(outputs: Path) -> dict[str, bytes]:
    """Bytes of all results, the bank included."""
    files = [outputs / "runs/tiny" / name for name in RESULTS]
    files += sorted(outputs.glob("problems/*/retrain/*.npz"))
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def test_a_worker_trains_and_compares_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "ROWS", 16)
    monkeypatch.setattr("influx.engines.passes.TOGETHER", 16)
    monkeypatch.setattr("influx.engines.gradients.TOGETHER", 16)
    monkeypatch.setattr("influx.engines.gradients.CACHED_BYTES", 2000)  # blocks of few instances
    overrides = [*TINY, "estimator.jackknife=true"]
    api.run([*overrides, f"paths.outputs={tmp_path / 'local'}"])
    opened: list[Here] = []

    def open_here(choice: Processes, place: Place) -> Here:
        opened.append(Here(place))
        return opened[-1]

    monkeypatch.setattr(Processes, "open", open_here)
    api.run([*overrides, "executor=processes", f"paths.outputs={tmp_path / 'spread'}"])
    kinds = [(task.told["kind"], len(task.names)) for task in opened[0].tasks]
    assert [kind for kind, _ in kinds] == ["retrain", "similarity"]
    assert kinds[0][1] == 4 and kinds[1][1] > 2 * 2  # several shares of rows at each checkpoint
    expected = results(tmp_path / "local")
    assert {"influence.npy", "stderr.npy", "truth.npy"} < set(expected)
    assert results(tmp_path / "spread") == expected
    assert not (tmp_path / "spread/runs/tiny/workers").exists()


@pytest.mark.fault(13, "a damaged share is set aside and done again")
def test_a_damaged_result_is_set_aside_and_missing(tmp_path: Path) -> None:
    task = doubled(["a", "b"])
    exchange = exchange_with(tmp_path, task, {0: "one", 1: "two"})
    path = exchange.results / "one" / "a.npz"
    path.write_bytes(path.read_bytes()[:-7])
    assert exchange.done() == {"a", "b"}
    assert exchange.read("a") is None and (path.parent / "a.npz.corrupt").exists() and not exchange.has("a")
    found = exchange.read("b")
    assert found is not None and found["x"].tolist() == [2]


def test_a_block_is_claimed_once_and_free_again_when_its_job_begins_anew(tmp_path: Path) -> None:
    task = doubled(["a", "b", "c"])
    exchange = exchange_with(tmp_path, task, {})
    folder = exchange.tasks()[0]
    one, two = Claiming(exchange, "7_0", 0.0), Claiming(exchange, "7_1", 0.0)
    assert [one.next(), two.next(), one.next(), two.next()] == [(folder, 0), (folder, 1), (folder, 2), None]
    assert Claiming(exchange, "7_1", 0.0).next() == (folder, 1)


@pytest.mark.fault(19, "with workers: an answer, not silence")
def test_a_worker_whose_task_is_gone_says_so(tmp_path: Path) -> None:
    exchange = exchange_with(tmp_path, doubled(["a"]), {})
    with pytest.raises(DataError, match="removed or changed meanwhile"):
        serve(exchange, Told(io.StringIO("task_0 0\n"), io.StringIO()), "here")
    with pytest.raises(UserError, match="its folder was removed meanwhile"):
        Crew(Processes(workers=2), Place(path=tmp_path, settings={})).hire(Exchange(tmp_path / "none"))


@pytest.mark.fault(19, "with workers: what goes away while it is read is missing")
def test_what_goes_away_while_it_is_read_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = exchange_with(tmp_path, doubled(["a"]), {0: "one"})
    (name,) = exchange.tasks()
    told = exchange.told(name)
    assert told is not None

    def gone(path: Path) -> Arrays:
        path.unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr("influx.engines.executors.exchange.load_arrays", gone)
    assert exchange.read("a") is None and not exchange.has("a")
    assert exchange.arrays(name, told) is None
    assert not list(tmp_path.rglob("*.corrupt"))
    monkeypatch.setattr(exchange, "told", lambda task: told)
    with pytest.raises(DataError, match="removed or changed meanwhile"):
        serve(exchange, Told(io.StringIO(f"{name} 0\n"), io.StringIO()), "here")


def test_a_worker_leaves_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    from influx import worker

    parents, left = [5, 1], []
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0)
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(os, "_exit", left.append)
    worker.leave_with(5)
    assert left == [1] and not parents


def start(outputs: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "influx", "run", *TINY, "training.epochs=40", "training.block=4"]
    options = ["executor=processes", "executor.workers=2", f"paths.outputs={outputs}"]
    return leaving(subprocess.Popen([*command, *options], stderr=subprocess.PIPE))


def children(process: subprocess.Popen[bytes]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def wait_for_blocks(process: subprocess.Popen[bytes], outputs: Path, count: int) -> None:
    until = time.monotonic() + 300
    while len(list(outputs.glob("problems/*/retrain/block_*"))) < count:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads processes from /proc")
@pytest.mark.fault(6, "its share is done again; the same bits")
@pytest.mark.fault(7, "no orphans; the same command goes on")
def test_killed_workers_and_a_killed_run_cost_no_bit(tmp_path: Path) -> None:
    api.run([*TINY, "training.epochs=40", "training.block=4", f"paths.outputs={tmp_path / 'local'}"])
    outputs = tmp_path / "spread"
    with start(outputs) as process:
        wait_for_blocks(process, outputs, 2)
        os.kill(children(process)[0], signal.SIGKILL)  # it is replaced
        wait_for_blocks(process, outputs, 5)
        workers = children(process)
        process.kill()
        process.communicate()
    until = time.monotonic() + 60
    while any(lives(pid) for pid in workers):  # none is left behind
        assert time.monotonic() < until
        time.sleep(0.1)
    with start(outputs) as process:
        assert process.communicate(timeout=300)[1] == b"" and process.returncode == 0
    assert results(outputs) == results(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.fault(19, "with workers: one sentence, no hang")
def test_a_workers_folder_that_goes_away_ends_or_heals_the_run(tmp_path: Path) -> None:
    outputs = tmp_path / "spread"
    with start(outputs) as process:
        wait_for_blocks(process, outputs, 2)
        (outputs / "runs/tiny/workers").rename(tmp_path / "gone")  # at once, whoever writes there
        said = process.communicate(timeout=300)[1].decode()
    assert process.returncode in (0, 2) and "Traceback" not in said and "internal error" not in said
    with start(outputs) as process:
        assert process.communicate(timeout=300)[1] == b"" and process.returncode == 0
    assert not (outputs / "runs/tiny/workers").exists()


@pytest.mark.slow
@pytest.mark.fault(6, "again and again: one sentence")
def test_a_worker_that_always_dies_ends_the_run_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    crew = Crew(Processes(workers=2, retries=1), Place(path=tmp_path, settings={}))
    with pytest.raises(UserError, match=re.escape("executor.retries=1 and the same block ended 2 workers")):
        list(crew.do(doubled(["a", "b"]), lambda number: None))
    crew.close(False)
