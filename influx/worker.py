"""``python -m influx.worker FOLDER``: does blocks of a run's work for another process.

Numbers of blocks come on standard input (``<task> <block>`` a line) until it ends, answers go to standard output as
JSON; or, with ``--claim``, the worker takes whatever block nobody has taken, until none is left for ``--linger``
seconds; only of tasks whose settings have the hash that follows ``--claim``. See ``influx.engines.executors``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

import torch

from influx import interrupts
from influx.config import Settings
from influx.engines.executor import Arrays, Finished, Task
from influx.engines.executors.exchange import Exchange, check_same, save_arrays
from influx.engines.executors.sources import code_version
from influx.engines.executors.trouble import told_error
from influx.engines.retrain import Bank, described_retraining
from influx.engines.trainings import described_trainings
from influx.errors import DataError, InfluxError, Interrupted
from influx.instantiate import build
from influx.job import Job, assemble
from influx.store import Folder
from influx.trained import trained_problem

IDLE_SECONDS = 1.0  # between looks for blocks that are free again
Wanted = tuple[str, int]  # a task and the number of a block


class Source(Protocol):
    """Where a worker learns what to do."""

    def next(self) -> Wanted | None:
        """The next block; None at the end."""
        ...

    def done(self, name: str) -> None:
        """A block's result is in its file."""
        ...

    def gone(self, task: str) -> None:
        """A task that is wanted is not described."""
        ...

    def failed(self, error: BaseException) -> None:
        """An error stops the worker."""
        ...


@dataclass
class Told:
    """Blocks by number on standard input."""

    numbers: IO[str]
    answers: IO[str]

    def next(self) -> Wanted | None:
        """Waits for a line."""
        line = self.numbers.readline().split()
        return (line[0], int(line[1])) if line else None

    def done(self, name: str) -> None:
        """Say so."""
        self._answer({"done": name})

    def gone(self, task: str) -> None:
        """Whoever asked waits for an answer.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"the description {task} of the workers' task was removed or changed meanwhile; run the same command again"
        )

    def failed(self, error: BaseException) -> None:
        """Say so."""
        self._answer(told_error(error))

    def _answer(self, answer: dict[str, str]) -> None:
        with suppress(BrokenPipeError):  # nobody listens any more; the result is on disk
            print(json.dumps(answer), file=self.answers, flush=True)


@dataclass
class Claiming:
    """Blocks that nobody has taken."""

    exchange: Exchange
    worker: str
    linger: float
    _names: dict[str, list[str]] = field(default_factory=dict)  # of the blocks of a task
    _passed: set[str] = field(default_factory=set)  # taken by somebody when last seen

    def __post_init__(self) -> None:
        """What an earlier life of this job was doing is free again."""
        done = self.exchange.done()
        for path in self.exchange.claims.glob("*"):
            if path.name not in done and self.exchange.claimed([path.name]).get(path.name) == self.worker:
                self.exchange.release(path.name)

    def next(self) -> Wanted | None:
        """Waits a while when all are taken."""
        until = time.monotonic() + self.linger
        while True:
            for task in self.exchange.tasks():
                for number, name in enumerate(self._blocks(task)):
                    if name not in self._passed and self.exchange.claim(name, self.worker):
                        return task, number
                    self._passed.add(name)
            if time.monotonic() >= until or not self.exchange.claims.is_dir():
                return None
            interrupts.check()
            time.sleep(IDLE_SECONDS)
            self._passed = self.exchange.done()  # a lost worker's blocks are free again

    def _blocks(self, task: str) -> list[str]:
        if task not in self._names:
            told = self.exchange.told(task)
            if told is None:  # perhaps not written to the end yet
                return []
            self._names[task] = list(told["names"])
        return self._names[task]

    def done(self, name: str) -> None:
        """The claim stays, so that nobody does it again."""

    def gone(self, task: str) -> None:
        """It is finished."""

    def failed(self, error: BaseException) -> None:
        """Leave the error for the process that asked."""
        self.exchange.report(self.worker, error)


class Left(Exception):
    """Leaves an estimator whose blocks are done."""


@dataclass
class Serving:
    """An executor that does the blocks which ``source`` wants of one task, as they come."""

    source: Source
    task: str
    served: dict[str, Any]  # the task's description
    results: Folder
    wanted: Wanted | None

    @property
    def names(self) -> list[str]:
        """Of the blocks."""
        names: list[str] = self.served["names"]
        return names

    @property
    def spreads(self) -> bool:
        """Tasks are cut as for others."""
        return True

    def close(self, done: bool) -> None:
        """Nothing is held."""

    def do(self, task: Task, finished: Finished) -> Iterator[tuple[int, Arrays]]:
        """Do blocks until one of another task is wanted.

        Raises:
            Left: that is so.
            DataError: this is not the work that was described.
        """
        check_same(self.names, task.names)
        torch.set_num_threads(task.threads)
        while self.wanted is not None and self.wanted[0] == self.task:
            interrupts.check()
            name = self.names[self.wanted[1]]
            arrays = task.do(self.wanted[1])
            self.results.write(f"{name}.npz", lambda path, arrays=arrays: save_arrays(path, arrays))  # type: ignore[misc]
            self.source.done(name)
            self.wanted = self.source.next()
        raise Left


def serve(exchange: Exchange, source: Source, worker: str) -> None:
    """Do all blocks that ``source`` wants; results go to the worker's own folder.

    Raises:
        InfluxError: a block cannot be done.
    """
    results, jobs = Folder(exchange.results / worker), dict[str, Job]()
    wanted = source.next()
    while wanted is not None:
        told = exchange.told(wanted[0])
        arrays = None if told is None else exchange.arrays(wanted[0], told)
        if told is None or arrays is None:
            source.gone(wanted[0])
            wanted = source.next()
            continue
        if told["code"] != code_version(told["settings"]):
            raise DataError(
                "a worker must run the same influx, trusted packages and libraries as the run; install the same ones"
            )
        key = json.dumps(told["settings"], sort_keys=True)
        if key not in jobs:
            jobs[key] = assembled(told["settings"])
        serving = Serving(source, wanted[0], told, results, wanted)
        with suppress(Left):
            _work(jobs[key], told, arrays, serving)
        wanted = serving.wanted


def assembled(told: dict[str, Any]) -> Job:
    """The run that a task belongs to."""
    folder = told["config_dir"]
    return assemble(
        Settings(
            values=told["values"], choices=told["choices"], config_dir=Path(folder) if folder is not None else None
        )
    )


def _work(job: Job, told: dict[str, Any], arrays: Arrays, serving: Serving) -> NoReturn:
    job = replace(job, problem=replace(job.problem, seed=told["seed"]))
    check_same([told["problem"]], [job.problem.id])
    if told["kind"] == "retrain":
        list(serving.do(described_retraining(job.problem, told, arrays), lambda number: None))  # raises Left
    torch.set_num_threads(told["threads"])
    bank = Bank(job.problem, job.problem_folder.sub("retrain"), serving)
    if told["kind"] == "training":
        list(serving.do(described_trainings(bank, told), lambda number: None))
    estimator = build(told["estimator"], "estimator", list(job.settings["trust"]))
    estimator.estimate(job.run(trained_problem(job), estimator.requires, told["who"], bank))
    check_same(serving.names, [])  # it never came to those blocks
    raise Left


def requeue(*_: object) -> NoReturn:
    """The time limit is near: the same task of the array begins again."""
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    subprocess.run(["scontrol", "requeue", f"{array}_{number}"], check=False)
    os._exit(75)


def leave_with(parent: int) -> NoReturn:
    """End this process, also in the middle of a block, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(IDLE_SECONDS)
    os._exit(1)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m influx.worker", description="Do blocks of a run's work.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--claim", metavar="HASH")
    parser.add_argument("--linger", type=float, default=0.0)
    options = parser.parse_args()
    exchange = Exchange(options.folder, options.claim)
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    worker = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else f"{socket.gethostname()}_{uuid.uuid4().hex}"
    if options.claim is not None:
        signal.signal(signal.SIGUSR1, requeue)
        source: Source = Claiming(exchange, worker, options.linger)
    else:
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever a library prints is no answer
        source = Told(sys.stdin, answers)
        threading.Thread(target=leave_with, args=(os.getppid(),), daemon=True).start()
    try:
        with interrupts.handled():
            serve(exchange, source, worker)
    except (Interrupted, KeyboardInterrupt) as stopped:
        print(f"stopped: {stopped}", file=sys.stderr)
        return stopped.exit_code if isinstance(stopped, Interrupted) else 130
    except Exception as error:
        traceback.print_exc()
        source.failed(error)
        return error.exit_code if isinstance(error, InfluxError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
