"""Sums of the risks of retrained models, with each training instance and over all, block by block.

Two sums per pair (of risks and of their squares, over the models with the instance) and the totals give means and
variances on both sides: one pass over the bank, whatever the number of models. Models of one seed err together, which
sums of the risks by seed show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROWS_CHUNK = 1024  # training instances whose means and variances are formed at once


class Side(NamedTuple):
    """Models on one side: how many (rows, 1), mean and unbiased variance of their risks (rows, columns)."""

    models: Array
    mean: Array
    variance: Array


@dataclass
class Cluster:
    """Sums of risks over the models of some seeds: with each instance (n, columns), and over all; and their numbers."""

    risk: Array
    all_risk: Array
    count: Array
    models: int = 0


class Sums:
    """Sums of risks over the models with each training instance, and over all.

    Risks are (models, columns), the same for every training instance; with ``own`` column i belongs to training
    instance i, and what is kept is one column. ``clusters`` hold the same for sets of seeds.
    """

    def __init__(
        self, n: int, columns: int, zeros: Callable[[], Array] | None = None, own: bool = False, clusters: int = 0
    ) -> None:
        """``zeros`` makes the two (n, columns) accumulators, and one for each of ``clusters``; None means in memory."""
        make = zeros or (lambda: np.zeros((n, columns)))
        self.own, self.models, self.count = own, 0, np.zeros((n, 1))
        self.risk, self.square = make(), make()
        self.all_risk, self.all_square = np.zeros((2, n, 1) if own else (2, 1, columns))
        self.shift: Array | None = None
        self.clusters = [Cluster(make(), np.zeros_like(self.all_risk), np.zeros((n, 1))) for _ in range(clusters)]

    def add(self, inside: NDArray[np.bool_], risk: Array, seed: NDArray[np.int64] | None = None) -> None:
        """Add models: ``inside`` (models, n) says which instances each was trained on; ``seed`` (models,) for clusters.

        Seed s belongs to cluster s modulo their number.
        """
        if self.shift is None:  # near the mean, so that squares lose no digits
            self.shift = risk.mean(axis=0)[:, None] if self.own else risk.mean(axis=0)[None, :]
        centred = risk - (self.shift.T if self.own else self.shift)
        within = inside.astype(np.float64)
        self.models += len(risk)
        self.count += within.sum(axis=0)[:, None]
        self._sum(within, centred, self.risk, self.all_risk)
        self._sum(within, centred * centred, self.square, self.all_square)
        if seed is None:
            return
        for number, cluster in enumerate(self.clusters):
            which = seed % len(self.clusters) == number
            if which.any():
                cluster.models += int(which.sum())
                cluster.count += within[which].sum(axis=0)[:, None]
                self._sum(within[which], centred[which], cluster.risk, cluster.all_risk)

    def _sum(self, within: Array, values: Array, total: Array, everything: Array) -> None:
        everything += values.sum(axis=0)[:, None] if self.own else values.sum(axis=0)[None, :]
        if self.own:
            total += (within * values).sum(axis=0)[:, None]
            return
        for rows in chunks(len(total)):
            total[rows] += within[:, rows].T @ values

    def sides(self, rows: slice) -> tuple[Side, Side]:
        """Models with and models without the instances of ``rows``."""
        count, risk, square = self.count[rows], self.risk[rows], self.square[rows]
        totals = rows if self.own else slice(None)
        shift = np.zeros((1, 1)) if self.shift is None else self.shift[totals]
        inside = _side(count, risk, square, shift)
        outside = _side(self.models - count, self.all_risk[totals] - risk, self.all_square[totals] - square, shift)
        return inside, outside

    def apart(self, rows: slice, number: int) -> list[tuple[Array, Array]]:
        """Numbers and mean risks of a cluster's models with, and without the instances of ``rows``."""
        shift = np.zeros((1, 1)) if self.shift is None else self.shift[rows if self.own else slice(None)]
        return [(count, shift + risk / np.maximum(count, 1)) for count, risk in self._parts(rows, number)]

    def _parts(self, rows: slice, number: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Numbers and sums of a cluster's models with, and without the instances of ``rows``."""
        cluster, totals = self.clusters[number], rows if self.own else slice(None)
        count, risk = cluster.count[rows], cluster.risk[rows]
        return (count, risk), (cluster.models - count, cluster.all_risk[totals] - risk)

    def within(self, rows: slice) -> list[Array]:
        """Variance of risks around the mean of their cluster, with and without the instances of ``rows``."""
        totals, parts = rows if self.own else slice(None), [self._parts(rows, c) for c in range(len(self.clusters))]
        squares, found = (self.square[rows], self.all_square[totals] - self.square[rows]), []
        for side, square in enumerate(squares):
            around = square - sum(part[side][1] ** 2 / np.maximum(part[side][0], 1) for part in parts)
            degrees = sum(np.maximum(part[side][0] - 1, 0) for part in parts)
            found.append(np.maximum(around, 0) / np.maximum(degrees, 1))
        return found

    def pulls(self, rows: slice, number: int) -> tuple[Array, Array]:
        """What a cluster of seeds adds to the errors of the means with, and without the instances of ``rows``.

        Over clusters they sum to 0; their squares are the variances of the means when seeds are drawn at random.
        """
        totals, (inside, outside) = rows if self.own else slice(None), self._parts(rows, number)
        count, risk = self.count[rows], self.risk[rows]
        return _pull(*inside, count, risk), _pull(*outside, self.models - count, self.all_risk[totals] - risk)

    def whole_pull(self, number: int) -> Array:
        """As ``pulls`` for the mean over all models."""
        cluster = self.clusters[number]
        models, every = (np.full((1, 1), float(number)) for number in (cluster.models, self.models))
        return _pull(models, cluster.all_risk, every, self.all_risk)

    @property
    def whole(self) -> Side:
        """All models."""
        shift = np.zeros((1, 1)) if self.shift is None else self.shift
        return _side(np.full((1, 1), float(self.models)), self.all_risk, self.all_square, shift)


def _side(count: Array, risk: Array, square: Array, shift: Array) -> Side:
    some = np.maximum(count, 1)
    variance = np.maximum(square - risk * risk / some, 0) / np.maximum(count - 1, 1)
    return Side(count, shift + risk / some, variance)


def _pull(number: Array, part: Array, count: Array, total: Array) -> Array:
    some = np.maximum(count, 1)
    return np.asarray((part - number * (total / some)) / some)


def clustered(pulls: Iterable[Array]) -> Array:
    """Standard error, with one degree of freedom less than there are clusters, from what each adds to the error."""
    number, total = 0, np.zeros((1, 1))
    for pull in pulls:
        number, total = number + 1, total + pull**2
    return np.sqrt(total * number / (number - 1))


class Pool:
    """Sums over a set of models: risks of test instances, their mean, and each training instance's own."""

    def __init__(self, n: int, m: int, zeros: Callable[[], Array] | None = None, clusters: int = 0) -> None:
        """``zeros`` makes (n, m) accumulators; ``clusters`` of seeds are also summed apart."""
        self.tests, self.joint = Sums(n, m, zeros, clusters=clusters), Sums(n, 1, clusters=clusters)
        self.own, self.clusters = Sums(n, 1, own=True, clusters=clusters), clusters

    def add(self, inside: NDArray[np.bool_], tests: Array, train: Array, seed: NDArray[np.int64] | None = None) -> None:
        """Add models with their risks on test (models, m) and train (models, n), and their seeds (models,)."""
        self.tests.add(inside, tests, seed)
        mean = tests.mean(axis=1, keepdims=True)  # inside each model: columns are correlated
        self.joint.add(inside, mean, seed)
        self.own.add(inside, train, seed)

    @property
    def fewest(self) -> tuple[int, int]:
        """Smallest number of models with, and without, an instance."""
        count = self.joint.count
        return int(count.min()), int(self.joint.models - count.max())


def chunks(n: int) -> Iterator[slice]:
    """Consecutive rows."""
    return (slice(start, min(start + ROWS_CHUNK, n)) for start in range(0, n, ROWS_CHUNK))
