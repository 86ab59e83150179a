"""When enough permutations have been drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from influx.engines.games import Array

Rule = Literal["budget", "stderr", "paper", "gelman_rubin", "any"]
LEAST_DRAWS = 50  # before stderr may stop: the error of few draws is itself uncertain, and the luckiest would stop
CHAINS = 10  # of the Gelman-Rubin statistic
CHAIN_DRAWS = 50  # below which the statistic is small whatever happens, by its factor (N - 1) / N


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When to stop: looked at after every ``every`` permutations, on values averaged over the columns.

    Attributes:
        rule: budget (never before all permutations), stderr, paper, gelman_rubin, or any of stderr and paper.
        every: permutations from one look to the next.
        target: stderr stops when the largest standard error is below this part of the range of the values, after 50
            draws at least.
        change: paper stops when no mean of the last ``window`` permutations differs from the newest one by more than
            this, relative to each value and averaged over players (Ghorbani & Zou 2019).
        window: permutations that the rule of the paper looks back on.
        ratio: gelman_rubin stops when the largest potential scale reduction of ten chains, of 50 draws each at least,
            is below this.
    """

    rule: Rule
    every: int
    target: float = 0.1
    change: float = 0.05
    window: int = 100
    ratio: float = 1.05

    def reached(self, rows: Array, units: int) -> str:
        """The rule that stops after the rows (permutations, players), each ``units`` of which are one draw; or ""."""
        draws = draws_of(rows, units)
        wanted = ("stderr", "paper") if self.rule == "any" else (self.rule,)
        if "stderr" in wanted and len(draws) >= LEAST_DRAWS and relative_error(draws) < self.target:
            return "stderr"
        if "paper" in wanted and len(rows) >= self.window and recent_change(rows, self.window) < self.change:
            return "paper"
        if "gelman_rubin" in wanted and gelman_rubin(draws) < self.ratio:
            return "gelman_rubin"
        return ""


def draws_of(rows: Array, units: int) -> Array:
    """Independent draws (draws, players): means of ``units`` successive rows."""
    return np.asarray(rows.reshape(-1, units, rows.shape[1]).mean(axis=1))


def relative_error(draws: Array) -> float:
    """Largest standard error of the mean of rows (draws, players), relative to the range of the means."""
    if len(draws) < 2:
        return np.inf
    mean = draws.mean(axis=0)
    error = draws.std(axis=0, ddof=1).max() / np.sqrt(len(draws))
    return float(error / max(np.ptp(mean), np.finfo(float).tiny))


def recent_change(rows: Array, window: int) -> float:
    """How far the running means of the last ``window`` rows were from the newest: the worst mean relative change."""
    running = (np.cumsum(rows, axis=0) / np.arange(1, len(rows) + 1)[:, None])[-window:]
    return float((np.abs(running - running[-1]) / (np.abs(running[-1]) + 1e-12)).mean(axis=1).max())


def gelman_rubin(draws: Array) -> float:
    """Largest √((N - 1)/N + B/(N W)) over players of ten chains of N successive draws; infinite for few."""
    length = len(draws) // CHAINS
    if length < CHAIN_DRAWS:
        return np.inf
    chains = draws[: length * CHAINS].reshape(CHAINS, length, -1)
    within = chains.var(axis=1, ddof=1).mean(axis=0)
    between = length * chains.mean(axis=1).var(axis=0, ddof=1)
    ratio = np.divide(between, length * within, out=np.zeros_like(between), where=within > 0)
    return float(np.sqrt((length - 1) / length + ratio).max())
