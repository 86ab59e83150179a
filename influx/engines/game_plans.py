"""What playing a game of training takes: which coalitions are looked up in the bank, and how many more there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from influx.engines.coalitions import expected_distinct, powerset, powerset_part
from influx.engines.games import WEIGHTS_BYTES, Array, Coalitions, designed, distinct, weights_of
from influx.engines.pairs import (
    adjacent_by_size,
    adjacent_bytes,
    adjacent_coalitions,
    kept_numbers,
    taylor_by_size,
    taylor_bytes,
    taylor_coalitions,
)
from influx.engines.permutations import at_once, block_of, prefixes_by_size, prefixes_of, walk_bytes
from influx.planning import Work

LOOKED_UP_BYTES = 64 << 20  # of the coalitions, and of their instance weights, that a plan looks up
LOOKED_UP = 1 << 15  # coalitions at most: to look them up takes a part of a second


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Which coalitions a permutation takes, and what else.

    Attributes:
        coalitions: of permutations (P, players), as (P, each, players); of each only the first so many, or all (None).
        by_size: ``(players + 1,)`` how many of each size one permutation has, everybody included.
        bytes: that a permutation takes while it is walked.
        sums: numbers that are kept for all permutations together.
        units: permutations of one draw, which are walked together.
    """

    coalitions: Callable[[NDArray[np.int64], int | None], Coalitions]
    by_size: Array
    bytes: int
    sums: float
    units: int = 1


def prefixes(players: int, columns: int, block: int | None, antithetic: bool) -> Scheme:
    """That of ``permutations.sampled``."""
    return Scheme(
        coalitions=prefixes_of,
        by_size=prefixes_by_size(players),
        bytes=walk_bytes(players, columns, block_of(block, players)),
        sums=2 * players * columns,
        units=2 if antithetic else 1,
    )


def adjacent(players: int, columns: int) -> Scheme:
    """That of ``pairs.adjacent``."""
    return Scheme(
        coalitions=adjacent_coalitions,
        by_size=adjacent_by_size(players),
        bytes=adjacent_bytes(players, columns),
        sums=kept_numbers(players, columns),
    )


def taylor(players: int, columns: int) -> Scheme:
    """That of ``pairs.taylor``."""
    return Scheme(
        coalitions=taylor_coalitions,
        by_size=taylor_by_size(players),
        bytes=taylor_bytes(players, columns),
        sums=kept_numbers(players, columns),
    )


def looked_up(
    parts: Iterable[Coalitions], members: Coalitions | None, n: int, seeds: tuple[int, ...], total: float
) -> Work:
    """Trainings of the coalitions that ``parts`` begin with; the rest of about ``total`` different ones is counted."""
    coalitions, complete = _first(parts)
    coalitions = coalitions[np.sort(distinct(coalitions)[0])]
    listed = coalitions[: max(LOOKED_UP_BYTES // (n * len(seeds)), 1)]
    weights = weights_of(listed, members)
    weights = weights[weights.any(axis=1)]
    more = (len(coalitions) if complete else max(total, len(coalitions))) - len(listed)
    return Work(trainings=(designed(weights, seeds),), more_trainings=float(more * len(seeds)))


def _first(parts: Iterable[Coalitions]) -> tuple[Coalitions, bool]:
    """The coalitions that there is room for, and whether these are all."""
    found: list[Coalitions] = []
    count = 0
    for part in parts:
        room = min(LOOKED_UP, LOOKED_UP_BYTES // part.shape[1]) - count
        found.append(part[:room])
        count += len(found[-1])
        if len(part) > room:
            return np.concatenate(found), False
    return np.concatenate(found), True


def every_coalition(
    players: int, members: Coalitions | None, n: int, m: int, seeds: tuple[int, ...], rows: int
) -> Work:
    """All coalitions under each seed, summed with ``rows`` coefficients; ``n`` training and ``m`` test instances."""
    count, times = 2.0**players, len(seeds)
    each = 3.0 * rows + 2.0 * m + n  # coefficients, values and weights of a coalition
    return replace(
        looked_up(powerset(players), members, n, seeds, count),
        flops=2.0 * count * rows * m * times,
        numbers=count * times * (2.0 * rows + 4.0 * m + n),
        bytes=8.0 * (2 * n * m + 3 * rows * (m + 1) * times + min(count, powerset_part(players)) * each),
        formula=f"{times} x (2^{players} - 1) trainings",
    )


def permuted(
    draw: Callable[[int], NDArray[np.int64]],
    count: int,
    members: Coalitions | None,
    n: int,
    m: int,
    seeds: tuple[int, ...],
    scheme: Scheme,
) -> Work:
    """The coalitions of ``count`` permutations under each seed; ``n`` training and ``m`` test instances.

    ``draw`` gives the first permutations (P, players); as many as are looked up are drawn.
    """
    each, players = float(scheme.by_size.sum()), len(scheme.by_size) - 1
    parts = _parts(draw(min(count, int(LOOKED_UP // each // 2 + 1) * 2)), scheme)
    different = expected_distinct(count, scheme.by_size)
    work = looked_up(parts, members, n, seeds, different)
    walked = at_once(count, scheme.bytes, scheme.units) * scheme.bytes
    return replace(
        work,
        numbers=count * each * (8.0 * m + players) + different * len(seeds) * (4.0 * m + n),
        bytes=8.0 * (2 * n * m + 2 * scheme.sums + count * players) + walked + min(WEIGHTS_BYTES, 4 * count * each * n),
        formula=f"at most {count} permutations x {each:.0f} coalitions x {len(seeds)} seeds",
    )


def _parts(orders: NDArray[np.int64], scheme: Scheme) -> Iterator[Coalitions]:
    """Everybody, then the coalitions of some permutations at a time."""
    players = orders.shape[1]
    yield np.ones((1, players), dtype=bool)
    each = int(scheme.by_size.sum())
    room = min(LOOKED_UP, LOOKED_UP_BYTES // players)  # one coalition more shows that there are more
    size = max(room // (4 * each), 1)
    for start in range(0, len(orders), size):
        part = scheme.coalitions(orders[start : start + size], room + 1)
        yield part.reshape(-1, players)
