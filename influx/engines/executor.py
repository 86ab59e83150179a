"""Where blocks of independent work are done: in this process, or by workers elsewhere (see ``executors``)."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from numpy.typing import NDArray

from influx.errors import InfluxError

T = TypeVar("T")
R = TypeVar("R")
Arrays = dict[str, NDArray[Any]]
Finished = Callable[[int], None]
WORKERS = "workers"  # folder below that of a run, for files that workers read and write


@dataclass(frozen=True, kw_only=True)
class Task:
    """Independent blocks of work, told so that another process can do them too.

    Attributes:
        names: one per block, hashes of all that the block's result depends on besides the code.
        do: makes the arrays of a block in this process.
        at_once: how many blocks this process may do at the same time, in threads.
        threads: processor threads that each block computes on; its bits may depend on them.
        told: what ``influx.worker`` needs to do the same, as plain values: ``kind`` and the fields of that kind.
        arrays: makes the arrays that belong to ``told``.
        keep: whether results stay until the run ends, because whoever takes them holds them in memory alone.
    """

    names: Sequence[str]
    do: Callable[[int], Arrays]
    at_once: int
    threads: int
    told: Mapping[str, Any]
    arrays: Callable[[], Arrays]
    keep: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where workers of one run find their tasks and leave results, and the settings they assemble the run from."""

    path: Path
    settings: Mapping[str, Any]  # values, choices and config_dir of ``Settings``, as JSON holds them


class Executor(Protocol):
    """Does the blocks of tasks."""

    @property
    def spreads(self) -> bool:
        """Whether other processes do the blocks."""
        ...

    @property
    def served(self) -> Mapping[str, Any] | None:
        """What this process is to do of a task as one of its workers; None for one that asks workers."""
        ...

    def do(self, task: Task, finished: Finished) -> Iterator[tuple[int, Arrays]]:
        """Numbers of the blocks with their arrays, in order; ``finished`` is told of each as soon as it is done.

        After an error what was being done is finished and given out, then the error is raised.
        """
        ...

    def close(self, done: bool) -> None:
        """Let workers go; ``done`` says that what they left is no longer needed."""
        ...


@contextmanager
def working(executor: Executor) -> Iterator[None]:
    """Workers leave with the block; what they left is removed only when nothing went wrong."""
    done = False
    try:
        yield
        done = True
    finally:
        executor.close(done)


class Choice(Protocol):
    """What the settings choose: how to open an executor for one run."""

    def open(self, place: Place) -> Executor:
        """The executor; nothing is started or written before there is a task."""
        ...


@dataclass(frozen=True, kw_only=True)
class Local:
    """In this process. Several blocks run at once in threads, each of which computes on one processor thread.

    A block then takes no part of another's processors and its bits do not depend on how many there are.
    """

    @property
    def spreads(self) -> bool:
        """No."""
        return False

    @property
    def served(self) -> None:
        """Nothing."""

    def open(self, place: Place) -> Local:
        """Itself."""
        return self

    def close(self, done: bool) -> None:
        """Nothing is held."""

    def do(self, task: Task, finished: Finished) -> Iterator[tuple[int, Arrays]]:
        """Do every block in threads."""
        for number, arrays in self.map(task.do, range(len(task.names)), task.at_once, task.threads):
            finished(number)
            yield number, arrays

    def map(
        self, function: Callable[[T], R], blocks: Iterable[T], at_once: int, threads: int = 1
    ) -> Iterator[tuple[T, R]]:
        """Do every block, on ``threads`` threads each; results come in order.

        After an error, what was being done is finished and given out.
        """
        before, patience = torch.get_num_threads(), sys.getswitchinterval()
        if at_once > 1:  # a block waits for the interpreter's lock for microseconds, and sleeping costs it more
            sys.setswitchinterval(1e-5)
        pool = ThreadPoolExecutor(at_once, initializer=lambda: torch.set_num_threads(threads))
        try:
            waiting: deque[tuple[T, Future[R]]] = deque()
            for block in blocks:
                waiting.append((block, pool.submit(function, block)))
                if len(waiting) >= 2 * at_once:  # enough for all while the caller is busy with a result
                    yield waiting[0][0], waiting.popleft()[1].result()
            while waiting:
                yield waiting[0][0], waiting.popleft()[1].result()
        except InfluxError:
            begun = [(block, future) for block, future in waiting if not future.cancel()]
            yield from ((block, future.result()) for block, future in begun if future.exception() is None)
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)
            sys.setswitchinterval(patience)
