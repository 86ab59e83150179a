"""Designs: which trainings answer a question."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influx.problem import Design, LossNorm


def full(n: int, seeds: int, norm: LossNorm) -> Design:
    """Training on everything, once per seed (seed 0 is the problem's own model)."""
    return _seeded(np.ones((1, n), np.uint8), seeds, norm)


def leave_one_out(n: int, removed: NDArray[np.int64], seed: int, norm: LossNorm) -> Design:
    """Training on everything, then once without each instance in ``removed``, all under one seed."""
    weights = np.ones((1 + len(removed), n), np.uint8)
    weights[1 + np.arange(len(removed)), removed] = 0
    numbers = np.full(len(weights), seed, dtype=np.int64)
    return Design(weights=weights, init=numbers, order=numbers, loss_norm=norm)


def fixed_size(n: int, size: int, count: int, rng: np.random.Generator, seeds: int, norm: LossNorm) -> Design:
    """``count`` uniformly drawn subsets of ``size`` instances; a longer design begins with a shorter one."""
    weights = np.zeros((count, n), np.uint8)
    for row in weights:
        row[rng.choice(n, size, replace=False)] = 1
    return _seeded(weights, seeds, norm)


def _seeded(weights: NDArray[np.uint8], seeds: int, norm: LossNorm) -> Design:
    numbers = np.repeat(np.arange(seeds, dtype=np.int64), len(weights))
    return Design(weights=np.tile(weights, (seeds, 1)), init=numbers, order=numbers, loss_norm=norm)
