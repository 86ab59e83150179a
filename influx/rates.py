"""How fast a machine is at what runs are made of: this one, measured in a fraction of a second, or a described one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from influx.errors import ConfigError
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


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Another machine, as ``conf/machine`` describes it; ``workers`` of them share what can be divided.

    Attributes:
        float32: operations per second that passes through nets and products of their gradients sustain.
        tf32: the same with ``precision=tf32``.
        bfloat16: the same with ``precision=bfloat16``, of training as well.
        numbers: as in ``Rates``.
        compared: as in ``Rates``.
        layer_step: seconds that a step of training takes per layer, however small.
        memory_gb: of the accelerator, or of a machine without one.
        workers: how many of them there are.
    """

    float32: float
    tf32: float
    bfloat16: float
    numbers: float
    compared: float
    layer_step: float
    memory_gb: float
    workers: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("float32", "tf32", "bfloat16", "numbers", "compared", "layer_step", "memory_gb", "workers"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"machine.{name} must be positive, got {getattr(self, name)}; correct it")

    def rates(self, precision: str = "model") -> Rates:
        """Operations per second in a precision (``model`` is float32)."""
        flops = {"tf32": self.tf32, "bfloat16": self.bfloat16}.get(precision, self.float32)
        return Rates(flops=flops, numbers=self.numbers, compared=self.compared)

    def training_seconds(self, flops: float, steps: int, depth: int, precision: str) -> float:
        """Of one training by its operations in float64, float32 or bfloat16, and at least what kernels take."""
        speed = self.float32 / 2 if precision == "float64" else self.rates(precision).flops
        return max(flops / speed, steps * depth * self.layer_step)


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
