"""Semivalues from random permutations of the players: marginals along each, weighted by position, until a rule stops.

Permutations are walked many at once; each round values the next few prefixes of all of them in one call of the game.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.engines.games import Array, Game
from influx.engines.moments import Moments
from influx.engines.stopping import Stop, draws_of, relative_error
from influx.errors import ConfigError

ROWS_BYTES = 256 << 20  # of the permutations that are walked together: their results, or their coalitions
FEWEST = 2  # draws that are walked together whatever they take


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
    draws: int  # independent ones, of which ``stderr`` has one degree of freedom less
    stopped: str
    relative_stderr: float  # the largest of the last column, relative to the range of its values
    coalitions: int = 0
    walked: float = 1.0  # share of the positions before truncation

    @property
    def report(self) -> dict[str, Any]:
        """What to tell about it."""
        names = ("permutations", "stopped", "relative_stderr")
        return {name: getattr(self, name) for name in names} | {"stderr_degrees": self.draws - 1}


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
    length = block_of(block, game.players)
    walk = Walk(game, position_weights, length, truncation or Truncation())
    found = gathered(walk, orders, walk_bytes(game.players, walk.columns, length), stop, 2 if antithetic else 1)
    return replace(found, coalitions=walk.coalitions, walked=walk.steps / (found.permutations * game.players))


def gathered(
    walk: Callable[[NDArray[np.int64]], Array], orders: NDArray[np.int64], each: int, stop: Stop, units: int
) -> Sampled:
    """Means of the rows (P, players, m + 1) that ``walk`` makes of permutations, ``each`` in bytes, until ``stop``.

    ``units`` successive permutations are one independent draw.
    """
    moments, rows, walked, reason = None, np.empty(orders.shape), 0, ""
    every = len(orders) if stop.rule == "budget" else stop.every
    for group in np.split(orders, range(every, len(orders), every)):
        for part in together(group, each, units):
            found = walk(part)
            rows[walked : walked + len(part)] = found[:, :, -1]
            walked += len(part)
            moments = moments or Moments.of(*found.shape[1:])
            moments.add(found.reshape(-1, units, *found.shape[1:]).mean(axis=1))
        reason = stop.reached(rows[:walked], units) if walked < len(orders) else ""
        if reason:
            break
    assert moments is not None
    rows = rows[:walked]
    return Sampled(
        values=moments.mean,
        stderr=moments.stderr,
        permutations=walked,
        draws=walked // units,
        stopped=reason or "budget",
        relative_stderr=relative_error(draws_of(rows, units)),
    )


def block_of(block: int | None, players: int) -> int:
    """Prefixes of each permutation valued together; None is a tenth of the players, at least 4."""
    return block or max(-(-players // 10), 4)


def bytes_of(results: int, coalitions: int, players: int) -> int:
    """What a permutation takes: numbers of its results, or coalitions that are valued at once, with copies of them."""
    return max(8 * results, 4 * coalitions * players)


def walk_bytes(players: int, columns: int, block: int) -> int:
    """What a permutation takes in ``Walk`` and in the means over them: marginals with copies, and values of a block."""
    inside = min(block, players)
    return bytes_of((3 * players + 4 * inside) * columns, inside, players)


def at_once(count: int, each: int, units: int = 1) -> int:
    """How many of ``count`` permutations, each of so many bytes, are walked together: a multiple of ``units``."""
    return min(max(ROWS_BYTES // each // units, FEWEST) * units, count)


def together(orders: NDArray[np.int64], each: int, units: int = 1) -> Iterator[NDArray[np.int64]]:
    """Permutations in batches that fit in memory, ``each`` in bytes; ``units`` of them are never apart."""
    size = at_once(len(orders), each, units)
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


def prefixes_of(orders: NDArray[np.int64], most: int | None = None) -> NDArray[np.bool_]:
    """``(P, players, players)`` the first 1, 2, … players of each permutation; ``most`` of them."""
    return np.argsort(orders, axis=1)[:, None, :] <= np.arange(orders.shape[1])[None, :most, None]


def prefixes_by_size(players: int) -> Array:
    """``(players + 1,)`` prefixes of each size of one permutation."""
    counts = np.ones(players + 1)
    counts[0] = 0
    return counts


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
