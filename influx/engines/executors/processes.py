"""Workers in processes of this machine."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from influx.engines.executor import Arrays, Finished, Local, Place, Task
from influx.engines.executors.exchange import Exchange
from influx.engines.executors.gpus import dealt, refuse_unused
from influx.engines.executors.results import Results
from influx.engines.executors.trouble import last_line, raised
from influx.errors import ConfigError, InfluxError, UserError
from influx.store import explain

POLL_SECONDS = 0.2  # between looks for signals
LEAVE_SECONDS = 10.0  # for an idle worker to end


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Every block is done by one of several processes of this machine; one that dies is replaced.

    Attributes:
        workers: how many processes; null means one per GPU, or as many as leave every one of them its processors.
        gpus: how many of the visible GPUs to deal out, one per worker in turn; null leaves all of them to every one.
        retries: how many times a block is done again whose worker died.
    """

    workers: int | None = None
    gpus: int | None = None
    retries: int = 2

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, least in (("workers", 1), ("gpus", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"executor.{name} must be at least {least}, got {value}; raise it")

    def open(self, place: Place) -> Crew:
        """Workers that are started when there is work and stay for more.

        Raises:
            ConfigError: cards are dealt out that the training does not use.
        """
        if self.gpus is not None:
            refuse_unused(self.gpus, place.settings)
        return Crew(self, place)

    def count(self, task: Task) -> int:
        """Workers for a task."""
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.workers or self.gpus or max(1, processors // task.threads)


@dataclass
class Worker:
    """One process; ``block`` is the number that it works on."""

    process: subprocess.Popen[bytes]
    log: Path
    device: str | None = None
    block: int | None = None
    unread: bytes = b""

    @property
    def stdin(self) -> IO[bytes]:
        """Where it is told blocks; closed, it ends."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def answers(self) -> IO[bytes]:
        """Where it says what it has done."""
        assert self.process.stdout is not None
        return self.process.stdout

    def give(self, task: str, block: int) -> None:
        """Tell it to do a block; when it is dead its answers end as well."""
        self.block = block
        with suppress(BrokenPipeError):
            self.stdin.write(f"{task} {block}\n".encode())
            self.stdin.flush()


@dataclass
class Crew:
    """The processes of one run. Their standard input ends with this process, and they with it."""

    choice: Processes
    place: Place
    workers: list[Worker] = field(default_factory=list)
    _started: int = 0

    @property
    def spreads(self) -> bool:
        """Yes."""
        return True

    @property
    def served(self) -> None:
        """It asks."""

    def do(self, task: Task, finished: Finished) -> Iterator[tuple[int, Arrays]]:
        """Blocks with results of an earlier process are read, the others given to workers.

        Raises:
            ConfigError: there are fewer GPUs than are to be dealt out.
        """
        if self.choice.gpus is not None:
            dealt(self.choice.gpus)  # refused before anything is written
        count = self.choice.count(task)
        if count == 1 or (len(task.names) == 1 and self.choice.gpus is None):
            yield from Local().do(task, finished)  # another process would do the same, later
            return
        exchange = Exchange.of(self.place)
        folder = exchange.describe(task, self.place.settings)
        yield from Deal(
            crew=self, exchange=exchange, task=task, folder=folder.path.name, count=count, finished=finished
        ).go()
        exchange.forget_tasks()

    def close(self, done: bool) -> None:
        """End the workers, also those in the middle of a block that nobody waits for."""
        for worker in self.workers:
            with suppress(OSError):
                worker.stdin.close()
            if worker.block is not None:
                worker.process.kill()
        for worker in self.workers:
            try:
                worker.process.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.answers.close()
        self.workers.clear()
        if done:
            Exchange.of(self.place).clear()

    def hire(self, exchange: Exchange) -> Worker:
        """Start a worker."""
        number, self._started = self._started, self._started + 1
        log = exchange.logs / f"{os.getpid()}_{number}.txt"
        environment, device = dict(os.environ), self._device()
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        try:
            stderr = log.open("ab")
        except OSError as error:
            raise explain(error, log) from error
        with stderr:
            process = subprocess.Popen(
                # -P: what lies in the current folder is not imported
                [sys.executable, "-P", "-m", "influx.worker", str(exchange.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,  # Ctrl-C is for this process, which tells them
            )
        worker = Worker(process, log, device)
        os.set_blocking(worker.answers.fileno(), False)
        self.workers.append(worker)
        return worker

    def _device(self) -> str | None:
        """The GPU that fewest workers have; None leaves what is visible."""
        if self.choice.gpus is None:
            return None
        taken = [worker.device for worker in self.workers]
        return min(dealt(self.choice.gpus), key=taken.count)


@dataclass(kw_only=True)
class Deal(Results):
    """One task dealt out block by block."""

    crew: Crew
    folder: str
    count: int
    losses: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look what an earlier process left."""
        known = self.exchange.done()
        self.ready = {k for k, name in enumerate(self.task.names) if name in known and self.exchange.has(name)}
        self.waiting = deque(k for k in range(len(self.task.names)) if k not in self.ready)
        for number in self.ready:
            self.finished(number)

    def step(self) -> None:
        """Give out what waits, and take answers."""
        self._assign()
        self._listen()

    def settle(self) -> None:
        """Wait for what is being done; a second signal ends that."""
        for worker in self.crew.workers:
            with suppress(OSError):
                worker.stdin.close()  # they end after their block
            worker.process.send_signal(signal.SIGTERM)  # or within it, where it can be left
        while self._busy:
            try:
                self._listen()
            except InfluxError:  # one error is enough
                continue

    def unwanted(self) -> None:
        """They may be in the middle of blocks."""
        self.crew.close(False)

    def again(self, number: int) -> None:
        """It is the next to be given to a worker."""
        self.waiting.appendleft(number)

    @property
    def _busy(self) -> list[Worker]:
        return [worker for worker in self.crew.workers if worker.block is not None]

    def _assign(self) -> None:
        idle = [worker for worker in self.crew.workers if worker.block is None]
        while self.waiting and len(self._busy) < self.count:
            worker = idle.pop() if idle else self.crew.hire(self.exchange)
            worker.give(self.folder, self.waiting.popleft())

    def _listen(self) -> None:
        """Take answers, for a moment."""
        with selectors.DefaultSelector() as selector:
            for worker in self._busy:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            for key, _ in selector.select(POLL_SECONDS):
                worker = key.data
                piece = worker.answers.read()
                if piece == b"":
                    self._lost(worker)
                    continue
                *lines, worker.unread = (worker.unread + (piece or b"")).split(b"\n")
                for line in lines:
                    self._answered(worker, json.loads(line))

    def _answered(self, worker: Worker, answer: dict[str, str]) -> None:
        if "error" in answer:
            worker.block = None
            raise raised(answer, worker.log)
        number = worker.block
        assert number is not None
        worker.block = None
        if self.task.names[number] == answer["done"]:
            self.ready.add(number)
            self.finished(number)
        else:
            self.waiting.appendleft(number)

    def _lost(self, worker: Worker) -> None:
        """A worker died: somebody else does its block."""
        code, number = worker.process.wait(), worker.block
        self.crew.workers.remove(worker)
        worker.answers.close()
        with suppress(OSError):
            worker.stdin.close()
        assert number is not None
        self.losses[number] = self.losses.get(number, 0) + 1
        if self.losses[number] <= self.crew.choice.retries:
            self.waiting.appendleft(number)
            return
        raise UserError(
            f"executor.retries={self.crew.choice.retries} and the same block ended {self.losses[number]} workers, "
            f"the last {_ended(code)}; see {worker.log}{last_line(worker.log)}"
        )


def _ended(code: int) -> str:
    """How a process ended."""
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "by SIGKILL, most likely because memory ran out (lower executor.workers or training.block)"
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
