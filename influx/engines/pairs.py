"""Interaction of pairs of players from random permutations: adjacent pairs, or all of them.

A pair's interaction at S is v(S + i + j) - v(S + i) - v(S + j) + v(S).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.engines.coalitions import all_pairs
from influx.engines.games import Array, Game
from influx.engines.moments import Moments, Scattered
from influx.engines.permutations import bytes_of, ends, together, with_mean

PAIRS_BYTES = 512 << 20  # of the sums for all pairs and columns; beyond them, only of their mean over columns


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Players' values (players, m + 1) and pairs' interactions (pairs, m + 1), in the order of ``all_pairs``.

    The last column is the mean over the columns of the game; of pairs it is the only one when the others would not fit
    in memory. Standard errors are NaN where there are none.
    """

    values: Array
    stderr: Array
    pairs: Array
    pairs_stderr: Array
    visits: NDArray[np.int64]
    coalitions: int


def numbered(players: int) -> NDArray[np.int64]:
    """``(players, players)`` which pair two players are; -1 on the diagonal."""
    numbers = np.full((players, players), -1)
    first, second = all_pairs(players)
    numbers[first, second] = numbers[second, first] = np.arange(len(first))
    return numbers


def adjacent_coalitions(orders: NDArray[np.int64], most: int | None = None) -> NDArray[np.bool_]:
    """``(P, 2 (n - 1), n)`` the first q = 1, …, n - 1 players; then the first q - 1 and the one at position q.

    ``most``: of how many at least, if not of all.
    """
    last = orders.shape[1] if most is None else min(most // 2 + 2, orders.shape[1])
    rank, q = np.argsort(orders, axis=1)[:, None, :], np.arange(1, last)[None, :, None]
    return np.concatenate([rank < q, (rank < q - 1) | (rank == q)], axis=1)


def taylor_coalitions(orders: NDArray[np.int64], most: int | None = None) -> NDArray[np.bool_]:
    """``(P, n (n + 1) / 2, n)`` the first a players and the one at position b, for 0 ≤ a ≤ b < n; ``most`` of them."""
    rank = np.argsort(orders, axis=1)[:, None, :]
    a, b = (place[:most] for place in np.triu_indices(orders.shape[1]))
    return np.asarray((rank < a[None, :, None]) | (rank == b[None, :, None]))


def adjacent(game: Game, orders: NDArray[np.int64]) -> Interactions:
    """Shapley values from marginals, and the interaction index from neighbours in each permutation.

    Neighbours i, j after S: S has a uniformly distributed size from 0 to n - 2, which is the weight of the index.
    A permutation takes 2 (n - 1) coalitions and shows n - 1 pairs.
    """
    n = game.players
    (empty, full), number = ends(game), numbered(n)
    columns = _columns(n, len(empty))
    singles, cells = Moments.of(n, len(empty)), Scattered.of(n * (n - 1) // 2, len(range(len(empty))[columns]))
    asked = 2
    for part in together(orders, adjacent_bytes(n, len(empty))):
        found = with_mean(game.values(adjacent_coalitions(part).reshape(-1, n))).reshape(len(part), 2, n - 1, -1)
        asked += 2 * len(part) * (n - 1)
        shape = (len(part), 1, len(empty))
        prefixes = np.concatenate([np.broadcast_to(empty, shape), found[:, 0], np.broadcast_to(full, shape)], axis=1)
        rows = np.empty((len(part), n, len(empty)))
        rows[np.arange(len(part))[:, None], part] = np.diff(prefixes, axis=1)
        singles.add(rows)
        deltas = prefixes[:, 2:] - prefixes[:, 1:-1] - found[:, 1] + prefixes[:, :-2]
        cells.add(number[part[:, :-1], part[:, 1:]].ravel(), deltas.reshape(-1, len(empty))[:, columns])
    return Interactions(
        values=singles.mean,
        stderr=singles.stderr,
        pairs=cells.values,
        pairs_stderr=cells.stderr,
        visits=cells.count,
        coalitions=asked,
    )


def taylor(game: Game, orders: NDArray[np.int64]) -> Interactions:
    """The Shapley-Taylor index of order 2: every pair at the players before the first of it (Sundararajan et al. 2020).

    Values of players are v(i) - v(∅) and half of their pairs' indices. A permutation takes n (n + 1) / 2 coalitions
    and shows all pairs.
    """
    n = game.players
    (empty, _), number = ends(game), numbered(n)
    columns = _columns(n, len(empty))
    singles, cells = Moments.of(n, len(empty)), Scattered.of(n * (n - 1) // 2, len(range(len(empty))[columns]))
    for part in together(orders, taylor_bytes(n, len(empty))):
        rank, row = np.argsort(part, axis=1)[:, None, :], np.arange(len(part))[:, None]
        rows, place = np.empty((len(part), n, len(empty))), np.arange(n)[None, :, None]
        prefix, last = np.broadcast_to(empty, (len(part), len(empty))), rows  # last: not yet
        for a in range(n):  # v of the first a players and the one at position b ≥ a
            asked = (rank < a) | (rank == place[:, a:])
            found = with_mean(game.values(asked.reshape(-1, n))).reshape(len(part), n - a, -1)
            if a == 0:
                rows[row, part] = found - empty
            else:  # the player at a - 1 with each later one
                deltas = found - last[:, :1] - last[:, 1:] + prefix[:, None]
                first, later = part[:, a - 1 : a], part[:, a:]
                rows[row, later] += deltas / 2
                rows[row, first] += deltas.sum(axis=1, keepdims=True) / 2
                cells.add(number[first, later].ravel(), deltas[:, :, columns].reshape(-1, cells.mean.shape[1]))
                prefix = last[:, 0]
            last = found
        singles.add(rows)
    return Interactions(
        values=singles.mean,
        stderr=singles.stderr,
        pairs=cells.values,
        pairs_stderr=cells.stderr,
        visits=cells.count,
        coalitions=2 + len(orders) * n * (n + 1) // 2,
    )


def adjacent_bytes(players: int, columns: int) -> int:
    """What ``adjacent`` takes for a permutation: values as they come, with their mean, in order, and differences."""
    return bytes_of(10 * players * columns, 2 * players, players)


def taylor_bytes(players: int, columns: int) -> int:
    """What ``taylor`` takes for a permutation: values of two prefix lengths, with copies, and of players."""
    return bytes_of(12 * players * columns, players, players)


def adjacent_by_size(players: int) -> Array:
    """``(players + 1,)`` coalitions of each size of one permutation, everybody included."""
    counts = np.full(players + 1, 2.0)
    counts[[0, -1]] = 0, 1
    return counts


def taylor_by_size(players: int) -> Array:
    """``(players + 1,)`` coalitions of each size of one permutation."""
    counts = np.arange(players + 1, 0, -1, dtype=np.float64)
    counts[0] = 0
    return counts


def kept_numbers(players: int, columns: int) -> int:
    """Means and spreads of players and pairs that are kept for all permutations."""
    pairs = players * (players - 1) // 2
    return 2 * players * columns + 2 * pairs * (columns if _columns(players, columns).start is None else 1)


def _columns(players: int, columns: int) -> slice:
    """All columns, or the last alone."""
    return slice(None) if 8 * players * (players - 1) * columns <= PAIRS_BYTES else slice(-1, None)
