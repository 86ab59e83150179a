"""Semivalues from random permutations of the players: marginals along each, weighted by position, until a rule stops.

Permutations are walked many at once; each round values the next few prefixes of all of them in one call of the game.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.engines.games import Array, Game
from influx.engines.moments import Moments
from influx.errors import ConfigError

Rule = Literal["budget", "stderr", "paper", "gelman_rubin", "any"]
ROWS_BYTES = 256 << 20  # marginals of the permutations that are walked together
FEWEST = 8  # walked together whatever they take
CHAINS = 10  # of the Gelman-Rubin statistic
CHAIN_DRAWS = 50  # below which the statistic is small whatever happens, by its factor (N - 1) / N


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When to stop: looked at after every ``every`` permutations, on values averaged over the columns.

    Attributes:
        rule: budget (never before all permutations), stderr, paper, gelman_rubin, or any of stderr and paper.
        every: permutations from one look to the next.
        target: stderr stops when the largest standard error is below this part of the range of the values.
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
        if "stderr" in wanted and relative_error(draws) < self.target:
            return "stderr"
        if "paper" in wanted and len(rows) >= self.window and recent_change(rows, self.window) < self.change:
            return "paper"
        if "gelman_rubin" in wanted and gelman_rubin(draws) < self.ratio:
            return "gelman_rubin"
        return ""


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Marginals after ``patience`` prefixes in a row that are worth as much as all players together count as 0.

    ``tolerance`` is relative to |v(D) - v(∅)|, means over the columns; 0 walks every permutation to its end.
    """

    tolerance: float = 0.0
    patience: int = 1


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Semivalues with standard errors (players, m + 1), the last column those of the mean over columns."""

    values: Array
    stderr: Array
    permutations: int
    stopped: str
    relative_stderr: float  # the largest of the last column, relative to the range of its values
    coalitions: int = 0
    walked: float = 1.0  # share of the positions before truncation

    @property
    def report(self) -> dict[str, Any]:
        """What to tell about it."""
        names = ("permutations", "stopped", "relative_stderr")
        return {name: getattr(self, name) for name in names}


def drawn(ids: NDArray[np.int64], count: int, antithetic: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    """``(count, players)`` permutations; antithetic ones are each followed by their reverse. Longer draws go on."""
    if not antithetic:
        return subsets.permutations(ids, count, rng)
    forward = subsets.permutations(ids, count // 2, rng)
    return np.stack([forward, forward[:, ::-1]], axis=1).reshape(-1, len(ids))


def sampled(
    game: Game,
    orders: NDArray[np.int64],
    position_weights: Array,
    stop: Stop,
    *,
    antithetic: bool = False,
    block: int | None = None,
    truncation: Truncation | None = None,
) -> Sampled:
    """Mean over permutations of ω_q (v(P + i) - v(P)), i at position q after P; its error from independent draws.

    Args:
        game: what is played.
        orders: ``(permutations, players)``, antithetic ones in pairs, whose means are the independent draws.
        position_weights: ω, see ``coalitions.of_positions``.
        stop: when fewer permutations are enough.
        antithetic: whether they come in pairs.
        block: prefixes of each permutation valued together; None is a tenth of the players, at least 4.
        truncation: None is none.
    """
    walk = Walk(game, position_weights, block or max(-(-game.players // 10), 4), truncation or Truncation())
    found = gathered(walk, orders, game.players * walk.columns, stop, 2 if antithetic else 1)
    return replace(found, coalitions=walk.coalitions, walked=walk.steps / (found.permutations * game.players))


def gathered(
    walk: Callable[[NDArray[np.int64]], Array], orders: NDArray[np.int64], numbers: int, stop: Stop, units: int
) -> Sampled:
    """Means of the rows (P, players, m + 1) that ``walk`` makes of permutations, ``numbers`` for each, until ``stop``.

    ``units`` successive permutations are one independent draw.
    """
    moments, rows, reason = None, np.empty((0, orders.shape[1])), ""
    for group in np.split(orders, range(stop.every, len(orders), stop.every)):
        for part in together(group, numbers):
            found = walk(part)
            rows = np.concatenate([rows, found[:, :, -1]])
            moments = moments or Moments.of(*found.shape[1:])
            moments.add(found.reshape(-1, units, *found.shape[1:]).mean(axis=1))
        reason = stop.reached(rows, units)
        if reason:
            break
    assert moments is not None
    return Sampled(
        values=moments.mean,
        stderr=moments.stderr,
        permutations=len(rows),
        stopped=reason or "budget",
        relative_stderr=relative_error(draws_of(rows, units)),
    )


def together(orders: NDArray[np.int64], numbers: int) -> Iterator[NDArray[np.int64]]:
    """Permutations in even batches whose results, ``numbers`` each, fit in memory."""
    size = max(ROWS_BYTES // (8 * numbers) // 2 * 2, FEWEST)
    for start in range(0, len(orders), size):
        yield orders[start : start + size]


def with_mean(values: Array) -> Array:
    """``(K, m + 1)``: a last column holds the mean of the others."""
    return np.concatenate([values, values.mean(axis=1, keepdims=True)], axis=1)


class Walk:
    """Goes along permutations; called with some (P, players), gives their weighted marginals (P, players, columns).

    The last column is the mean of the others, and what truncation looks at. ``coalitions`` and ``steps`` count what
    was valued, and the marginals that truncation left.
    """

    def __init__(self, game: Game, weights: Array, block: int, truncation: Truncation) -> None:
        self.game, self.weights, self.block, self.truncation = game, weights, block, truncation
        self.empty, self.full = ends(game)
        self.near = truncation.tolerance * abs(self.full[-1] - self.empty[-1])
        self.columns, self.coalitions, self.steps = len(self.empty), 2, 0

    def __call__(self, orders: NDArray[np.int64]) -> Array:
        """Walk them, a block of positions at a time."""
        count, n = orders.shape
        rows = np.zeros((count, n, self.columns))
        rank = np.argsort(orders, axis=1)
        last, hits = np.tile(self.empty, (count, 1)), np.zeros(count, np.int64)
        active = np.arange(count)
        for first in range(0, n, self.block):
            positions = np.arange(first, min(first + self.block, n))
            prefixes = self._prefixes(rank[active], positions + 1)  # (active, positions, columns)
            steps = np.diff(prefixes, axis=1, prepend=last[active][:, None])
            counted, hits[active] = self._counted(prefixes[:, :, -1], hits[active])
            steps *= (counted * self.weights[positions])[:, :, None]
            rows[active[:, None], orders[active][:, positions]] = steps
            self.steps += int(counted.sum())
            last[active] = prefixes[:, -1]
            active = active[hits[active] < self._patience]
            if not len(active):
                break
        return rows

    @property
    def _patience(self) -> float:
        return self.truncation.patience if self.truncation.tolerance else np.inf

    def _prefixes(self, rank: NDArray[np.int64], lengths: NDArray[np.int64]) -> Array:
        """Values of the first players of permutations; everybody together is known."""
        asked = lengths[lengths < rank.shape[1]]
        found = np.tile(self.full, (len(rank), len(lengths), 1))
        if len(asked):
            inside = rank[:, None, :] < asked[None, :, None]
            self.coalitions += len(rank) * len(asked)
            values = with_mean(self.game.values(inside.reshape(-1, rank.shape[1])))
            found[:, : len(asked)] = values.reshape(len(rank), len(asked), -1)
        return found

    def _counted(self, joint: Array, hits: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which marginals count, and how many prefixes in a row have been near the whole by then (P,)."""
        counted = np.ones(joint.shape, dtype=bool)
        if not self.truncation.tolerance:
            return counted, hits
        for q, near in enumerate((np.abs(self.full[-1] - joint) <= self.near).T):
            counted[:, q] = hits < self.truncation.patience
            hits = np.where(counted[:, q], np.where(near, hits + 1, 0), hits)
        return counted, hits


def ends(game: Game) -> tuple[Array, Array]:
    """Values of nobody and of everybody, with the mean as last column."""
    both = np.stack([np.zeros(game.players, bool), np.ones(game.players, bool)])
    empty, full = with_mean(game.values(both))
    return empty, full


def prefixes_of(orders: NDArray[np.int64]) -> NDArray[np.bool_]:
    """``(P, players, players)`` the first 1, 2, … players of each permutation."""
    return np.argsort(orders, axis=1)[:, None, :] <= np.arange(orders.shape[1])[None, :, None]


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


def check_permutations(permutations: int, antithetic: bool, every: int) -> None:
    """Refuse numbers that leave a pair incomplete, or too few for a standard error.

    Raises:
        ConfigError: naming the setting.
    """
    least, step = (4, 2) if antithetic else (2, 1)
    for name, number, lowest in (("permutations", permutations, least), ("check_every", every, step)):
        if number < lowest or number % step:
            even = "even and " if antithetic else ""
            raise ConfigError(f"estimator.{name} must be {even}at least {lowest}, got {number}; change it")
