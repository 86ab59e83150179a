"""A task that nobody here needs to do, what workers left of it, and a queue without Slurm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from influx.engines.executor import Task
from influx.engines.executors.exchange import Exchange, save_arrays
from influx.engines.executors.queue import Queue
from influx.engines.executors.slurm import Slurm, Watch
from influx.store import Folder


def doubled(names: list[str]) -> Task:
    """A task that nobody here needs to do."""
    return Task(
        names=names,
        do=lambda number: {"x": np.array([2 * number])},
        at_once=1,
        threads=1,
        told={"kind": "none"},
        arrays=dict,
    )


def exchange_with(tmp_path: Path, task: Task, done: dict[int, str]) -> Exchange:
    """The task described, and results by number that workers left."""
    exchange = Exchange(tmp_path / "workers" / "code")
    exchange.describe(task, {})
    for number, worker in done.items():
        arrays = task.do(number)
        Folder(exchange.results / worker).write(f"{task.names[number]}.npz", lambda p, a=arrays: save_arrays(p, a))
    return exchange


class Cluster(Queue):
    """A queue without Slurm: ``states`` are given out one after the other, the last for ever."""

    states: list[dict[str, str] | None]
    submitted: list[int]

    def jobs(self) -> dict[str, str] | None:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def submit(self, count: int) -> None:
        self.submitted.append(count)


def watched(exchange: Exchange, task: Task, states: list[dict[str, str] | None]) -> tuple[Watch, Cluster]:
    choice = Slurm(workers=2, poll=0.01, retries=2)
    queue = Cluster(choice, exchange.path)
    queue.states, queue.submitted = states, []
    watch = Watch(choice=choice, exchange=exchange, queue=queue, task=task, finished=lambda number: None)
    return watch, queue
