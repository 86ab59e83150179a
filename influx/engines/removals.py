"""Shapley values by removing players from the whole in random orders, drawn for those whose rank is open.

The first ``lead`` columns decide by their mean; the others are valued along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from influx.engines.games import Array, Coalitions
from influx.engines.moments import Scattered
from influx.engines.permutations import Truncation

Bound = Literal["bernstein", "normal"]
Values = Callable[[Coalitions], Array]


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The ``top`` players by the mean of the leading columns, told from the others with confidence 1 - delta each.

    Attributes:
        top: how many; None ranks nobody, so that all players are drawn to the end.
        delta: chance that a player's value is outside its bounds.
        bound: bernstein, √(2 s² log(2/δ) / c) + 7/3 R log(2/δ) / (c - 1) with the variance s² and the range R seen in
            c draws (Maurer & Pontil 2009, where R is known), or normal.
    """

    top: int | None
    delta: float
    bound: Bound

    def radius(self, stderr: Array, spread: Array, count: NDArray[np.int64]) -> Array:
        """Half the width of the bounds, from standard errors, ranges and numbers of draws."""
        if self.bound == "normal":
            return np.asarray(norm.ppf(1 - self.delta / 2) * stderr)
        log = np.log(2 / self.delta)
        return np.asarray(np.sqrt(2 * log) * stderr + 7 / 3 * spread * log / (count - 1))

    def chosen(self, mean: Array) -> NDArray[np.bool_]:
        """Who is among the top; of equals the earlier ones."""
        if self.top is None or self.top >= len(mean):
            return np.ones(len(mean), dtype=bool)
        return np.asarray(np.argsort(np.argsort(-mean, kind="stable")) < self.top)

    def open(self, mean: Array, radius: Array) -> NDArray[np.bool_]:
        """Whose bounds hold the threshold, halfway between the last of the top and the next."""
        if self.top is None or self.top >= len(mean):
            return np.ones(len(mean), dtype=bool)
        ordered = np.sort(mean)[::-1]
        threshold = (ordered[self.top - 1] + ordered[self.top]) / 2
        return np.asarray(np.abs(mean - threshold) <= radius)


@dataclass
class Removals:
    """Marginals v(S) - v(S - i) of players i removed from the whole in random orders, as many as were asked for.

    Attributes:
        value: coalitions (K, players) -> values (K, columns).
        players: how many.
        lead: columns whose mean decides; it is added as a last column of the results.
        truncation: an order ends when ``patience`` coalitions in a row are worth as little as nobody.
    """

    value: Values
    players: int
    lead: int
    truncation: Truncation
    coalitions: int = 2
    skipped: int = 0  # marginals that truncation took to be 0
    found: Scattered = field(init=False)
    lowest: Array = field(init=False)
    highest: Array = field(init=False)

    def __post_init__(self) -> None:
        """Value everybody and nobody."""
        both = np.stack([np.zeros(self.players, bool), np.ones(self.players, bool)])
        self.empty, self.full = self._with_lead(self.value(both))
        self.near = self.truncation.tolerance * abs(self.full[-1] - self.empty[-1])
        self.found = Scattered.of(self.players, len(self.full))
        self.lowest, self.highest = np.full(self.players, np.inf), np.full(self.players, -np.inf)

    def walk(self, orders: NDArray[np.int64], wanted: NDArray[np.bool_]) -> None:
        """Draw marginals of the ``wanted`` players (players,) along orders (P, players), a position at a time."""
        rank = np.argsort(orders, axis=1)
        before = np.tile(self.full, (len(orders), 1))  # of the coalition at this position, where ``known``
        known, hits = np.ones(len(orders), bool), np.zeros(len(orders), np.int64)
        for q, players in enumerate(orders.T):
            ended = hits >= self.truncation.patience if self.truncation.tolerance else np.zeros(len(orders), bool)
            self._add(players[wanted[players] & ended], None)
            now = np.flatnonzero(wanted[players] & ~ended)
            ask = now[~known[now]]
            before[ask] = self._valued(rank[ask], q)
            after = self._valued(rank[now], q + 1)
            self._add(players[now], before[now] - after)
            hits[now] = np.where(np.abs(after[:, -1] - self.empty[-1]) <= self.near, hits[now] + 1, 0)
            before[now] = after
            known = np.zeros(len(orders), bool)
            known[now] = True

    def _add(self, players: NDArray[np.int64], marginals: Array | None) -> None:
        if not len(players):
            return
        if marginals is None:
            self.skipped += len(players)
            marginals = np.zeros((len(players), len(self.full)))
        self.found.add(players, marginals)
        np.minimum.at(self.lowest, players, marginals[:, -1])
        np.maximum.at(self.highest, players, marginals[:, -1])

    def _valued(self, rank: NDArray[np.int64], removed: int) -> Array:
        """Values without the first ``removed`` players of orders, given by the players' ranks (k, players)."""
        if not len(rank) or removed == self.players:
            return np.tile(self.empty, (len(rank), 1))
        self.coalitions += len(rank)
        return self._with_lead(self.value(rank >= removed))

    def _with_lead(self, values: Array) -> Array:
        return np.concatenate([values, values[:, : self.lead].mean(axis=1, keepdims=True)], axis=1)


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Values with standard errors (players, columns + 1), the last column the mean of the leading ones.

    ``radius`` (players,) is half the width of the bounds of that column, ``draws`` (players,) how many each had.
    """

    values: Array
    stderr: Array
    radius: Array
    draws: NDArray[np.int64]
    stopped: str
    coalitions: int
    truncated: float


def removed(walk: Removals, orders: NDArray[np.int64], every: int, ranked: Ranked) -> Removed:
    """Go along orders (permutations, players), ``every`` at a time, for players whose rank is still open."""
    wanted = np.ones(walk.players, dtype=bool)
    stopped = "budget"
    for some in np.split(orders, range(every, len(orders), every)):
        walk.walk(some, wanted)
        found = walk.found
        stderr = found.stderr
        radius = ranked.radius(stderr[:, -1], walk.highest - walk.lowest, found.count)
        wanted = ranked.open(found.mean[:, -1], radius)
        if not wanted.any():
            stopped = "settled"
            break
    return Removed(
        values=found.mean,
        stderr=stderr,
        radius=radius,
        draws=found.count,
        stopped=stopped,
        coalitions=walk.coalitions,
        truncated=walk.skipped / int(found.count.sum()),
    )
