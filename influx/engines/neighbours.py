"""Training instances in the order of their distance to each test instance, and values that depend on that order.

Distances come from one product of matrices in float64. A distance and the place of the training instance among
ascending ids share the 64 bits of one integer, so that sorting integers orders instances, equal distances by id,
wherever they stand in the data. For that the distance keeps 36 bits of its mantissa, fewer beyond 65536 training
instances: squared distances that agree to about 1e-11 are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from influx.problem import Split

Metric = Literal["l2", "cosine"]
Array = NDArray[np.float64]
# Values by rank: from training instances in the order of distance (g, r) and rows of the test split (g,) to (g, r).
# Training instances are numbered by ascending id.
Rule = Callable[[NDArray[np.int64], NDArray[np.int64]], Array]

BLOCK_BYTES = 32 << 20  # distances held at once
ROW_BYTES = 1 << 19  # of those, what a thread orders at once: it stays in the processor's cache
TILE = 64  # rows of the result written at once
NOISE_BITS = 16  # last bits of the mantissa, where distances differ by rounding
SIGN = 1 << 63


class Neighbours:
    """Training features, ready to be ordered by distance to any other features."""

    def __init__(self, train: Split, metric: Metric = "l2", nearest: int | None = None) -> None:
        """Sort by id.

        Args:
            train: features ``x`` (n, d) and ids.
            metric: l2 (Euclidean) or cosine (1 minus the cosine, which counts as 0 for a vector of zeros).
            nearest: how many instances to order, from the nearest on; None means all.
        """
        self.by_id = np.argsort(train.ids, kind="stable")
        self.metric, self.n = metric, len(train)
        self.nearest = self.n if nearest is None else min(nearest, self.n)
        x = np.asarray(train.x, np.float64)[self.by_id] + 0.0  # leaves no -0.0
        self._later, self._first = _copies(x)
        self._centre = x.mean(axis=0) if metric == "l2" else np.zeros(x.shape[1])  # small numbers, small errors
        x -= self._centre
        self._lifted = self._lift(x, one=-1)
        low = max((self.n - 1).bit_length(), NOISE_BITS)
        self._half, self._low = np.uint64(1 << (low - 1)), np.uint64((1 << low) - 1)
        self._kept = np.uint64((SIGN - 1) & ~((1 << low) - 1))

    def fill(self, test: NDArray[Any], rule: Rule, out: Array) -> Array:
        """Write the rule's values for test features (m, d) into ``out`` (n, m); 0 where none are ordered."""
        place = np.argsort(self.by_id)
        in_order = bool((self.by_id[1:] > self.by_id[:-1]).all())
        stripe = -(-self.n // torch.get_num_threads())
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for columns, values in self._blocks(np.asarray(test, np.float64) - self._centre, rule, pool):

                def write(first: int, columns: slice = columns, values: Array = values) -> None:
                    for start in range(first, min(first + stripe, self.n), TILE):
                        rows = slice(start, min(start + TILE, first + stripe))
                        out[rows, columns] = values[:, rows if in_order else place[rows]].T

                list(pool.map(write, range(0, self.n, stripe)))
        return out

    def own(self, rule: Rule) -> Array:
        """The rule's value (n,) of each training instance for itself as the test instance.

        The rule is told test rows in the order of ascending ids.
        """
        own = np.empty(self.n)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for rows, values in self._blocks(self._lifted[:, : len(self._centre)], rule, pool):
                own[self.by_id[rows]] = values[np.arange(len(values)), np.arange(rows.start, rows.stop)]
        return own

    def _blocks(self, test: Array, rule: Rule, pool: ThreadPoolExecutor) -> Iterator[tuple[slice, Array]]:
        """Values (g, n) for g centred test instances at a time, columns by ascending id, in memory used again."""
        size = max(1, BLOCK_BYTES // (8 * self.n))
        size = min(size - size % 8 or size, len(test))  # whole cache lines of the result
        memory = np.empty((size, self.n))
        for start in range(0, len(test), size):
            rows = np.arange(start, min(start + size, len(test)))
            block = memory[: len(rows)]
            left, right = (torch.from_numpy(part) for part in (self._lift(test[rows], one=1), self._lifted))
            torch.mm(left, right.T, out=torch.from_numpy(block))
            block[:, self._later] = block[:, self._first]
            step = max(1, ROW_BYTES // (8 * self.n))
            parts = [slice(i, i + step) for i in range(0, len(rows), step)]
            list(pool.map(lambda part, b=block, r=rows: self._score(b[part], r[part], rule), parts))
            yield slice(start, start + len(rows)), block

    def _score(self, distances: Array, rows: NDArray[np.int64], rule: Rule) -> None:
        """Replace distances (g, n) by the rule's values."""
        order = self._order(distances)
        values = rule(order, rows)
        if self.nearest < self.n:
            distances[:] = 0
        order += self.n * np.arange(len(rows))[:, None]
        distances.reshape(-1)[order] = values

    def _order(self, distances: Array) -> NDArray[np.int64]:
        """The nearest training instances (g, nearest); overwrites the distances."""
        keys = distances.view(np.uint64)
        keys += self._half  # rounds: a distance of few digits is in the middle of those equal to it
        keys &= self._kept
        keys |= np.arange(self.n, dtype=np.uint64)
        if self.nearest < self.n:
            keys = np.partition(keys, self.nearest - 1, axis=1)[:, : self.nearest]
        keys.sort(axis=1)
        return (keys & self._low).view(np.int64)

    def _lift(self, x: Array, one: Literal[1, -1]) -> Array:
        """Test (1) or training (-1) instances such that products of both are squared distances, or 1 - cosine."""
        ones = np.ones((len(x), 1))
        if self.metric == "cosine":
            norms = np.linalg.norm(x, axis=1, keepdims=True)
            return np.concatenate([-one * x / np.where(norms > 0, norms, 1), ones], 1)
        squares = np.square(x).sum(axis=1, keepdims=True)
        return np.concatenate([-2 * x, ones, squares], 1) if one == 1 else np.concatenate([x, squares, ones], 1)


def _copies(x: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows equal to an earlier row, and the first row equal to each.

    A product of matrices may round differently for the same numbers in another place.
    """
    odd = np.random.default_rng(0).integers(1 << 63, size=x.shape[1], dtype=np.uint64) * 2 + 1
    hashes = (x.view(np.uint64) * odd).sum(axis=1)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    earlier = first[group]
    later = np.flatnonzero(earlier != np.arange(len(x)))
    later = later[(x[later] == x[earlier[later]]).all(axis=1)]
    return later, earlier[later]
