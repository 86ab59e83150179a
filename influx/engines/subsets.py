"""Designs: which trainings answer a question.

Random masks are drawn for instances in the order of their ids, row after row: the same instance is in the same
subsets wherever it stands in the data, and a longer design begins with a shorter one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.problem import Design, LossNorm

Masks = NDArray[np.uint8]


def full(n: int, seeds: int, norm: LossNorm) -> Design:
    """Training on everything, once per seed (seed 0 is the problem's own model)."""
    numbers = np.arange(seeds, dtype=np.int64)
    return Design(weights=np.ones((seeds, n), np.uint8), init=numbers, order=numbers, loss_norm=norm)


def leave_one_out(n: int, removed: NDArray[np.int64], seed: int, norm: LossNorm) -> Design:
    """Training on everything, then once without each instance in ``removed``, all under one seed."""
    weights = np.ones((1 + len(removed), n), np.uint8)
    weights[1 + np.arange(len(removed)), removed] = 0
    return _of_seed(weights, seed, norm)


def without_groups(members: NDArray[np.bool_], seed: int, norm: LossNorm) -> Design:
    """Training on everything, then once without each group of ``members`` (groups, n), all under one seed."""
    weights = np.concatenate([np.ones((1, members.shape[1]), np.uint8), 1 - members.astype(np.uint8)])
    return _of_seed(weights, seed, norm)


def turns(weights: NDArray[Any], seeds: int, norm: LossNorm = "subset") -> Design:
    """One training per row of ``weights``; seeds 0, 1, …, ``seeds`` - 1 take turns.

    With several seeds the randomness of training is averaged over at no extra cost; models of one seed still share
    initialisation and batches, so that they train together.
    """
    numbers = np.arange(len(weights), dtype=np.int64) % seeds
    return Design(weights=weights, init=numbers, order=numbers.copy(), loss_norm=norm)


def fixed_size(ids: NDArray[np.int64], size: int | NDArray[np.int64], count: int, rng: np.random.Generator) -> Masks:
    """``(count, n)`` uniformly drawn subsets of ``size`` instances, a number or one per subset (count,)."""
    drawn = np.zeros((count, len(ids)), np.uint8)
    for row, kept in zip(drawn, np.broadcast_to(size, (count,)).tolist(), strict=True):
        row[rng.permutation(len(ids))[:kept]] = 1
    return placed(drawn, ids)


def bernoulli(ids: NDArray[np.int64], p: float | NDArray[np.float64], count: int, rng: np.random.Generator) -> Masks:
    """``(count, n)`` subsets that hold each instance with probability ``p``, a number or one per subset (count,)."""
    chances = np.broadcast_to(np.asarray(p, dtype=np.float64), (count,))
    return placed((rng.random((count, len(ids))) < chances[:, None]).astype(np.uint8), ids)


def bootstrap(ids: NDArray[np.int64], size: int, count: int, rng: np.random.Generator) -> Masks:
    """``(count, n)`` how often each instance is drawn in ``size`` draws with replacement."""
    n = len(ids)
    drawn = np.zeros((count, n), np.uint8)
    for row in drawn:
        row[:] = np.minimum(np.bincount(rng.integers(n, size=size), minlength=n), 255)
    return placed(drawn, ids)


def permutations(ids: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``(count, n)`` random orders of the instances, each a permutation of positions in the data."""
    by_id = np.argsort(ids, kind="stable")
    return np.stack([by_id[rng.permutation(len(ids))] for _ in range(count)]) if count else np.empty((0, len(ids)), int)


def some(ids: NDArray[np.int64], rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``count`` of ``rows``, drawn among their ids, ascending; fewer are among more."""
    by_id = rows[np.argsort(ids[rows], kind="stable")]
    return np.sort(by_id[rng.permutation(len(by_id))[:count]])


def asked(
    ids: NDArray[np.int64], indices: list[int] | None, budget: int | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows with the ids ``indices`` (None: all), at most ``budget`` of them as ``some`` draws them, ascending.

    Raises:
        ConfigError: an index is not a training id.
    """
    rows = np.arange(len(ids))
    if indices is not None:
        unknown = sorted(set(indices) - set(ids.tolist()))
        if unknown or not indices:
            raise ConfigError(
                f"truth.indices must be ids of training instances (see ids.parquet), got {unknown[:5]}; remove them"
            )
        rows = np.flatnonzero(np.isin(ids, indices))
    return rows if budget is None or budget >= len(rows) else some(ids, rows, budget, rng)


def placed(drawn: Masks, ids: NDArray[np.int64]) -> Masks:
    """Columns drawn for ascending ids, moved to where those ids are."""
    found = np.empty_like(drawn)
    found[:, np.argsort(ids, kind="stable")] = drawn
    return found


def _of_seed(weights: Masks, seed: int, norm: LossNorm) -> Design:
    numbers = np.full(len(weights), seed, dtype=np.int64)
    return Design(weights=weights, init=numbers, order=numbers.copy(), loss_norm=norm)
