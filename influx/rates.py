"""How fast this machine is at what runs are made of, measured in a fraction of a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from influx.planning import Work

SECONDS = 0.03  # per kernel
SIZE = 384  # of the product of matrices: fits the cache, large enough for full speed


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Operations per second: ``flops`` in products of matrices, ``numbers`` and ``compared`` as in ``Work``."""

    flops: float
    numbers: float
    compared: float

    def seconds(self, work: Work) -> float:
        """Predicted time of everything but the trainings."""
        return work.flops / self.flops + work.numbers / self.numbers + work.compared / self.compared

    def sentence(self) -> str:
        """The rates in words."""
        return (
            f"{self.flops / 1e9:.3g} Gflop/s in products, {self.numbers / 1e6:.3g} million numbers/s in passes, "
            f"{self.compared / 1e6:.3g} million comparisons/s in sorting"
        )


def measure() -> Rates:
    """Time a product of matrices, running sums over gathered rows, and sorting (about 0.1 s)."""
    left = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    draws = np.random.default_rng(0)
    table, order = draws.random((100, 1000)), draws.permutation(100)
    column = draws.random(1000)
    return Rates(
        flops=2.0 * SIZE**3 * _per_second(lambda: torch.mm(left, left)),
        numbers=table.size * _per_second(lambda: np.cumsum(table[order], axis=0)),
        compared=column.size * math.log2(column.size) * _per_second(lambda: np.argsort(column, kind="stable")),
    )


def _per_second(kernel: Callable[[], object]) -> float:
    """Calls per second, the better of two halves after a warm-up."""
    kernel()
    best = 0.0
    for _ in range(2):
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS / 2:
            kernel()
            calls += 1
        best = max(best, calls / (time.perf_counter() - start))
    return best
