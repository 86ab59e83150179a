"""Games whose every coalition is in a table, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from influx.engines.risk_sums import Sums

Array = NDArray[np.float64]
N, C = 7, 3  # players and columns


def powerset(n: int = N) -> NDArray[np.uint8]:
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.uint8)


def table() -> Array:
    """Risk of every subset of 7 players on three test instances, with interactions of all orders."""
    rng = np.random.default_rng(0)
    return 2 - powerset() @ rng.normal(size=(N, C)) + 0.5 * rng.normal(size=(2**N, C))


def number_of(masks: NDArray[np.uint8]) -> NDArray[np.int64]:
    return masks @ (1 << np.arange(masks.shape[1]))


def summed(masks: NDArray[np.uint8], risks: Array, block: int = 10) -> Sums:
    sums = Sums(masks.shape[1], risks.shape[1])
    for start in range(0, len(masks), block):
        sums.add(masks[start : start + block] > 0, risks[start : start + block])
    return sums


def marginals(game: Array, keep: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> Array:
    """Mean fall of the risk when a player joins, over subsets of the others weighted by their size."""
    masks, value = powerset(), np.empty((N, C))
    for i in range(N):
        without = masks[masks[:, i] == 0]
        with_ = without.copy()
        with_[:, i] = 1
        weight = keep(without.sum(axis=1))
        value[i] = np.average(game[number_of(without)] - game[number_of(with_)], axis=0, weights=weight)
    return value
