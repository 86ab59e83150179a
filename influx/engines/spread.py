"""Standard errors of a sum over checkpoints, each from one running sum beside that of the values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.kernels import Block

ROWS_CHUNK = 4096  # rows of a finished matrix at a time
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """``term`` is what a block with a weight adds; ``total`` makes the standard error of sum, values and count."""

    term: Callable[[Block, float], Tensor]
    total: Callable[[Array, Array, int], Array]
    meaning: str

    def finish(self, sums: Array, values: Array, count: int) -> None:
        """The standard error, in place of the ``sums`` of the terms."""
        for start in range(0, len(sums), ROWS_CHUNK):
            part = slice(start, start + ROWS_CHUNK)
            sums[part] = self.total(sums[part], values[part], count)


def _variance(block: Block) -> Tensor:
    assert block.variance is not None
    return block.variance.double()


def _jackknife(squares: Array, values: Array, count: int) -> Array:
    """Of C S_c around S, as left-out sums C/(C - 1) (S - S_c) spread: (C Σ S_c² - S²) / (C - 1)."""
    return np.asarray(np.sqrt(np.maximum(count * squares - values**2, 0) / (count - 1)))


JACKKNIFE = Spread(
    lambda block, weight: (weight * block.values.double()).square_(),
    _jackknife,
    "spread over checkpoints (leave one checkpoint out), not over trainings",
)
INDEPENDENT = Spread(
    lambda block, weight: weight**2 * _variance(block),
    lambda squares, values, count: np.sqrt(squares),
    "random projection",
)
# standard deviations of dependent terms add up at most
SHARED = Spread(
    lambda block, weight: abs(weight) * torch.sqrt(_variance(block)),
    lambda deviations, values, count: deviations,
    "random projection, an upper bound since checkpoints share it",
)
