"""Means of projected influence over models or checkpoints, with the standard error of their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.leverage import Leverage

if TYPE_CHECKING:
    from influx.run import Run

ROWS_CHUNK = 4096  # rows of a finished matrix at a time
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """One model at one checkpoint: its regression, and slopes of the risk of training and test instances."""

    solved: Leverage
    slopes: Tensor  # (n,)
    test_slopes: Tensor  # (m,)


class Means:
    """(mean of slopes) ∘ (mean of values) over units, as running sums; matrices are on disk when they are large.

    A unit is a model, with one or several checkpoints, or a checkpoint of the only model.
    """

    def __init__(self, run: Run, units: int, weigh: bool) -> None:
        """``units`` will be added; without ``weigh`` slopes count as one."""
        n, m = len(run.train), len(run.test)
        self.units, self.weigh = units, weigh
        self.values = run.zeros()
        self.squares, self.crossed = (run.zeros() if units > 1 else np.zeros((0, m)) for _ in range(2))
        self.slopes, self.slope_squares, self.own = np.zeros(n), np.zeros(n), np.zeros(n)
        self.test_slopes = np.zeros(m)

    def add(self, members: Sequence[Member], own: bool) -> None:
        """One unit: the mean over its members."""
        slopes = _mean([member.slopes for member in members]) if self.weigh else np.ones(len(self.own))
        for together in zip(*(member.solved.values() for member in members), strict=True):
            rows, found = together[0][0], _mean([values for _, values in together])
            self.values[rows] += found
            if self.units > 1:
                self.squares[rows] += found**2
                self.crossed[rows] += found * slopes[rows, None]
        self.slopes += slopes
        self.slope_squares += slopes**2
        self.test_slopes += _mean([member.test_slopes for member in members])
        if own:
            for mine in zip(*(member.solved.own() for member in members), strict=True):
                self.own[mine[0][0]] += _mean([values for _, values in mine])

    def finish(self, to_loss: bool) -> tuple[Array, Array | None]:
        """Values in place of the sums, and their standard errors, to first order in the units' deviations.

        ``to_loss`` multiplies by the mean slopes of test instances, and what instances are to themselves by their own;
        the spread of these is left out of the error.
        """
        units, slopes = self.units, self.slopes / self.units
        factor = self.test_slopes / units if to_loss else np.ones(len(self.test_slopes))
        self.own *= slopes * (slopes if to_loss else 1.0) / units
        variance = self.slope_squares / units - slopes**2
        for start in range(0, len(self.values), ROWS_CHUNK):
            rows = slice(start, start + ROWS_CHUNK)
            slope, mean = slopes[rows, None], self.values[rows] / units
            if units > 1:
                together = self.crossed[rows] / units - slope * mean
                spread = slope**2 * (self.squares[rows] / units - mean**2) + mean**2 * variance[rows, None]
                spread += 2 * slope * mean * together
                self.squares[rows] = np.sqrt(np.maximum(spread, 0) / (units - 1)) * factor
            self.values[rows] = slope * mean * factor
        return self.values, self.squares if units > 1 else None


class Spread:
    """The mean of so many matrices and its standard error, by running sums; on disk when they are large."""

    def __init__(self, run: Run, count: int) -> None:
        """``count`` will be added."""
        self.run, self.count, self.added = run, count, 0
        self.mean = self.squares = np.zeros((0, 0))

    def add(self, values: Array) -> None:
        """One of them; the first is where the mean will be."""
        self.added += 1
        if self.added == 1:
            self.mean = values
            self.squares = self.run.zeros() if self.count > 1 else self.squares
            return
        for start in range(0, len(values), ROWS_CHUNK):
            rows = slice(start, start + ROWS_CHUNK)
            change = values[rows] - self.mean[rows]
            self.mean[rows] += change / self.added
            self.squares[rows] += change * (values[rows] - self.mean[rows])

    def finish(self) -> tuple[Array, Array | None]:
        """The mean, and its standard error in place of the sums."""
        if self.count == 1:
            return self.mean, None
        for start in range(0, len(self.squares), ROWS_CHUNK):
            rows = slice(start, start + ROWS_CHUNK)
            self.squares[rows] = np.sqrt(self.squares[rows] / (self.count - 1) / self.count)
        return self.mean, self.squares


def _mean(tensors: list[Tensor]) -> Array:
    return np.asarray(torch.stack(tensors).double().mean(0).cpu().numpy())
