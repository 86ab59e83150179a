"""Workers in a job array of Slurm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from influx.engines.executor import Arrays, Finished, Place, Task
from influx.engines.executors.exchange import Exchange, bound_to
from influx.engines.executors.queue import CONTROL, Queue, log
from influx.engines.executors.results import Results
from influx.engines.executors.trouble import last_line, raised
from influx.errors import ConfigError, InfluxError, UserError

TICK_SECONDS = 0.1  # between looks for signals


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Blocks are done by the tasks of a job array, which choose among those that nobody has taken.

    The array goes on when this process ends without a word; the same command finds what it did and what still runs.

    Attributes:
        workers: how many tasks the array has, at most one per block.
        cpus_per_task: processors of each; gradients are computed on as many threads as ``threads`` says.
        mem_gb: memory of each.
        timeout_min: minutes after which Slurm ends a task; it is then put in the queue again.
        gpus_per_task: GPUs of each.
        partition: null is Slurm's default.
        account: null is yours.
        setup: lines of shell before a worker starts, such as ``module load cuda``.
        retries: how many times in a row workers that were lost before they had done anything are replaced.
        poll: seconds between looks at the queue.
        linger: seconds that a worker without work waits for more.
    """

    workers: int = 4
    cpus_per_task: int = 1
    mem_gb: float = 4.0
    timeout_min: int = 60
    gpus_per_task: int = 0
    partition: str | None = None
    account: str | None = None
    setup: list[str] = field(default_factory=list)
    retries: int = 3
    poll: float = 2.0
    linger: float = 30.0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("workers", "cpus_per_task", "mem_gb", "timeout_min", "poll"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"executor.{name} must be more than 0, got {getattr(self, name)}; raise it")
        for name in ("gpus_per_task", "retries", "linger"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"executor.{name} must not be negative, got {getattr(self, name)}; raise it")
        for name in ("partition", "account"):
            if CONTROL.search(getattr(self, name) or ""):
                raise ConfigError(
                    f"executor.{name} must have no control characters, got {getattr(self, name)!r}; correct it"
                )

    def open(self, place: Place) -> Array:
        """Nothing is submitted before there is work."""
        return Array(self, place)


@dataclass
class Array:
    """The jobs of one run, found by their name."""

    choice: Slurm
    place: Place
    _used: bool = False
    _told: bool = False

    @property
    def spreads(self) -> bool:
        """Yes."""
        return True

    @property
    def served(self) -> None:
        """It asks."""

    def do(self, task: Task, finished: Finished) -> Iterator[tuple[int, Arrays]]:
        """Blocks with results are read, the others left to the array, which is submitted as far as it is not there.

        Raises:
            UserError: there is no Slurm here.
        """
        choice, exchange = self.choice, Exchange.of(self.place)
        queue = self._queue(exchange)
        queue.check()
        if task.threads > choice.cpus_per_task and not self._told:
            log.warning(
                "blocks are computed on %d threads, as executor=local would here, but workers have %d processors; set "
                "threads and executor.cpus_per_task to the same number",
                task.threads,
                choice.cpus_per_task,
            )
            self._told = True
        exchange.describe(task, self.place.settings)
        self._used = True
        yield from Watch(choice=choice, exchange=exchange, queue=queue, task=task, finished=finished).go()
        exchange.forget_tasks()

    def _queue(self, exchange: Exchange) -> Queue:
        return Queue(self.choice, exchange.path, bound_to(self.place.settings))

    def close(self, done: bool) -> None:
        """Cancel what is left of the jobs."""
        if not self._used:
            return
        exchange = Exchange.of(self.place)
        exchange.forget_tasks()
        self._queue(exchange).cancel()
        if done:
            exchange.clear()


@dataclass(kw_only=True)
class Watch(Results):
    """One task watched until all its blocks have results."""

    choice: Slurm
    queue: Queue
    failures: int = 0  # submissions since a block was finished
    submitted: bool = False
    trouble: str = ""  # what last befell a worker that ended by itself
    _next: float = 0.0  # when the queue is looked at again

    def step(self) -> None:
        """Look at the queue from time to time."""
        if time.monotonic() < self._next:
            time.sleep(TICK_SECONDS)
            return
        self._look()
        self._next = time.monotonic() + self.choice.poll

    def settle(self) -> None:
        """What is there by now counts."""
        self._scan()

    def unwanted(self) -> None:
        """The array goes on until it is cancelled."""

    def again(self, number: int) -> None:
        """Any worker may take it."""
        self.exchange.release(self.task.names[number])

    def _look(self) -> None:
        """Claims first, then the queue, then results: what a gone worker left is lost only if it was there before."""
        left = [name for k, name in enumerate(self.task.names) if k not in self.ready]
        claimed = self.exchange.claimed(left)
        jobs = self.queue.jobs()
        self._scan()
        for worker, told in self.exchange.reported():
            error = raised(told, self.exchange.logs / f"{worker}.txt")
            if type(error) is not InfluxError:  # it concerns the work, others would meet it too
                raise error
            self.exchange.forget_error(worker)  # it concerns the machine: a lost worker, which the queue no longer has
            self.trouble = f"; on {told.get('node', 'a node')}, {error}"
            log.warning("on %s, %s", told.get("node", "a node"), error)
        if jobs is None:  # the controller does not answer: wait until it does
            return
        left = [name for k, name in enumerate(self.task.names) if k not in self.ready]
        for name in left:
            owner = claimed.get(name)
            if owner is not None and jobs.get(owner, "PENDING") == "PENDING":
                self.exchange.release(name)
        wanted = min(self.choice.workers, len(left)) - len(jobs)
        if wanted > 0:
            self._submit(wanted)

    def _scan(self) -> None:
        """Note new results."""
        done = self.exchange.done()
        for number, name in enumerate(self.task.names):
            if number not in self.ready and name in done and self.exchange.has(name):
                self.ready.add(number)
                self.finished(number)
                self.failures = 0

    def _submit(self, count: int) -> None:
        if self.submitted:
            self.failures += 1
            if self.failures > self.choice.retries:
                logs = sorted(self.exchange.logs.glob("*.txt"), key=lambda path: path.stat().st_mtime)
                where = f"{logs[-1]}{last_line(logs[-1])}" if logs else f"{self.exchange.logs}, which is empty"
                raise UserError(
                    f"executor.retries={self.choice.retries} and workers were lost {self.failures} times in a row "
                    f"before they had done a block; raise executor.mem_gb or executor.timeout_min if these ran out, "
                    f"and see {where}{self.trouble}"
                )
            log.warning("%d workers were lost or are missing: submitting others", count)
        self.queue.submit(count)
        self.submitted = True
