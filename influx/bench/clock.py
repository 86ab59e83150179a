"""Time in units of a reference kernel that is measured between the same rounds.

What counts is processor time of this process on one thread: a busy machine delays a process without giving it more to
do. What the machine does to the speed of the processor itself (frequency, shared caches) it does to the kernel too.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from influx import interrupts
from influx.bench.memory import Growing

T = TypeVar("T")
SIZE = 384  # of the product of matrices
INSTANCES = 48  # whose gradients are taken one by one
ROUNDS = 3  # at least, unless an estimate is long
LONG = 2.0  # processor seconds after which no further round begins
SHORT = 0.02  # processor seconds of an estimate that is repeated more often
MANY = 8  # kernels: what takes twice as long is long, half as long is short
MORE = 6  # further rounds where a result looks too slow or too large


class Kernel:
    """Products of matrices and one gradient per instance: what influence is made of."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.left = torch.randn(SIZE, SIZE, generator=generator)
        self.x = torch.randn(INSTANCES, 64, generator=generator)
        self.y = torch.randint(10, (INSTANCES,), generator=generator)
        self.weights = [(torch.randn(a, b, generator=generator) / 8).requires_grad_() for a, b in ((64, 32), (32, 10))]

    def __call__(self) -> float:
        """Do it once; processor seconds."""
        start = time.process_time()
        product = self.left
        for _ in range(4):
            product = product @ self.left / SIZE
        for i in range(INSTANCES):
            output = torch.tanh(self.x[i : i + 1] @ self.weights[0]) @ self.weights[1]
            torch.autograd.grad(torch.nn.functional.cross_entropy(output, self.y[i : i + 1]), self.weights)
        return time.process_time() - start


@dataclass
class Rounds(Generic[T]):
    """Estimates repeated between runs of the kernel; the least of each measure of an estimate is kept.

    ``make`` does one, after ``clear``, which is not timed; what the first gave is ``first``, and ``steady`` whether
    ``same`` holds of it and all others.
    """

    make: Callable[[], T]
    same: Callable[[T, T], bool]
    kernel: Kernel
    clear: Callable[[], None] = lambda: None
    count: int = 0
    spent: float = 0.0
    processor: float = math.inf
    kernel_times: list[float] = field(default_factory=list)
    wall: float = math.inf
    memory: float = math.inf
    steady: bool = True
    _first: list[T] = field(default_factory=list)

    @property
    def first(self) -> T:
        """What the first round gave."""
        return self._first[0]

    @property
    def kernel_time(self) -> float:
        """Processor seconds of the kernel, each the mean between two rounds.

        The least of them beside a short estimate, whose least round was as undisturbed; the median beside a long one,
        which had its share of disturbances in every round. Between them it goes gradually, so that an estimate of
        middle length is measured alike however it falls.
        """
        least, median = min(self.kernel_times), statistics.median(self.kernel_times)
        length = math.log2(max(self.processor / least / MANY, 0.5))  # -1 at half of MANY kernels, 1 at twice as many
        share = min(length + 1, 2) / 2
        return least + share * (median - least)

    @property
    def noise(self) -> float:
        """Median over least of the kernel's times: 1 on a quiet machine, more on a crowded one."""
        return statistics.median(self.kernel_times) / min(self.kernel_times)

    def once(self) -> None:
        """One more round."""
        interrupts.check()
        if not self.kernel_times:
            self.kernel_times.append(self._kernels())
        self.clear()
        growing = Growing()
        clock, start = time.perf_counter(), time.process_time()
        found = self.make()
        processor, wall = time.process_time() - start, time.perf_counter() - clock
        grown = growing.mb()
        self.processor, self.wall = min(self.processor, processor), min(self.wall, wall)
        self.kernel_times.append(self._kernels())
        self.memory = min(self.memory, grown)
        self.count, self.spent = self.count + 1, self.spent + processor
        if self._first:
            self.steady = self.steady and self.same(self.first, found)
        else:
            self._first.append(found)

    def _kernels(self) -> float:
        """Mean over as many kernels as take about half an estimate's time, so that both meet the same disturbances."""
        first = self.kernel()
        count = min(int(self.processor / first / 2), MANY) if math.isfinite(self.processor) else 1
        return statistics.fmean([first, *(self.kernel() for _ in range(count - 1))])

    def go(self, suspect: Callable[[Rounds[T]], bool]) -> None:
        """As many rounds as are needed, and more as long as ``suspect`` finds the best of them too slow or large."""
        self.once()
        while self.spent < LONG and self.count < (ROUNDS if self.processor > SHORT else 3 * ROUNDS):
            self.once()
        self.more(suspect)

    def more(self, suspect: Callable[[Rounds[T]], bool]) -> None:
        """A few further rounds, as long as ``suspect`` asks for them."""
        for _ in range(MORE):
            if not suspect(self):
                return
            self.once()
