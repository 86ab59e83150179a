"""Where blocks of independent work are done."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from influx.errors import InfluxError

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Maps a function over blocks; results come in any order, each once, beside their block."""

    def map(self, function: Callable[[T], R], blocks: Iterable[T], at_once: int) -> Iterator[tuple[T, R]]:
        """Do every block, up to ``at_once`` of them at the same time."""
        ...


@dataclass(frozen=True, kw_only=True)
class Local:
    """In this process. Several blocks run at once in threads, each computing on one processor thread.

    A block then takes no part of another's processors and its bits do not depend on how many there are.
    """

    def map(self, function: Callable[[T], R], blocks: Iterable[T], at_once: int) -> Iterator[tuple[T, R]]:
        """Do every block; results come in order. After an error, what was being done is finished and given out."""
        before, patience = torch.get_num_threads(), sys.getswitchinterval()
        if at_once > 1:  # a block waits for the interpreter's lock for microseconds, and sleeping costs it more
            sys.setswitchinterval(1e-5)
        pool = ThreadPoolExecutor(at_once, initializer=lambda: torch.set_num_threads(1))
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
