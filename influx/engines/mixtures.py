"""What models that hold, and models that lack an instance together say of instances, over repeated cross-validation.

Every repeat cuts the training instances into folds and trains one model without each. An instance's two sides in a
repeat are the model without its fold and all others, so that they depend on its fold alone: a table per repeat of
(folds, instances) holds all there is to know. Densities are averaged by exact sums of logarithms, without the
differences of sums in which small ones are lost.

Errors are from a jackknife that leaves out one group of repeats at a time: those that share a seed of training depend
on each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Aggregate = Literal["logmeanexp", "mean_log"]
PIECE_BYTES = 4 << 20  # of the values of some training instances in all repeats
PIECES = 9  # arrays of that size that are held at once


class Contrast(NamedTuple):
    """Mixtures with and without each training instance, on some instances.

    Attributes:
        inside: logarithm of the mean density (or mean logarithm) of the models with it.
        outside: of those without it.
        value: inside minus outside, less the estimate of its bias where that is asked for.
        left: ``(groups, ...)`` the value without each group of repeats; of one group, nothing.
        spread: deviation of the logarithms of the models without it over repeats; NaN of one repeat.
    """

    inside: Array
    outside: Array
    value: Array
    left: Array
    spread: Array

    @property
    def stderr(self) -> Array:
        """Jackknife over groups of repeats; NaN of one group."""
        return jackknifed(self.left)


def jackknifed(left: Array) -> Array:
    """Standard error from what is found without each of the groups (groups, ...)."""
    if len(left) < 2:
        return np.full(left.shape[1:], np.nan)
    squares = np.square(left - left.mean(axis=0)).sum(axis=0)
    return np.asarray(np.sqrt((len(left) - 1) / len(left) * squares))


@dataclass
class Mixtures:
    """Collects the logarithms of densities, repeat by repeat.

    Attributes:
        folds: ``(repeats, n)`` fold of every training instance.
        models: per repeat, as many as there are folds.
        aggregate: logmeanexp (mean of densities) or mean_log (mean of logarithms).
        groups: ``(repeats,)`` numbers 0, 1, … of the groups that are independent of each other; None: every repeat is.
        debias: subtract the jackknife's estimate of the bias from values; errors, which then leave out two groups
            at a time, are of what is left. Takes three groups.
    """

    folds: NDArray[np.int64]
    models: int
    aggregate: Aggregate
    groups: NDArray[np.int64] | None = None
    debias: bool = False

    def __post_init__(self) -> None:
        """Nothing is collected yet."""
        repeats, n = self.folds.shape
        self._group = np.arange(repeats) if self.groups is None else self.groups
        self._tests: dict[int, tuple[Array, Array]] = {}
        self._own = np.empty((2, repeats, n))
        self._waiting: dict[int, tuple[Array, Array, set[int]]] = {}

    def add(self, rows: NDArray[np.int64], tests: Array, train: Array) -> None:
        """Add models: their places in the design, and logarithms of densities of test (k, m) and train (k, n)."""
        for row, test, own in zip(rows.tolist(), tests, train, strict=True):
            repeat, fold = divmod(row, self.models)
            if repeat not in self._waiting:
                shape = (self.models, len(test)), (self.models, len(own))
                self._waiting[repeat] = np.empty(shape[0]), np.empty(shape[1]), set()
            on_tests, on_train, known = self._waiting[repeat]
            on_tests[fold], on_train[fold] = test, own
            known.add(fold)
            if len(known) == self.models:
                self._finish(repeat)

    def _finish(self, repeat: int) -> None:
        """Keep what one repeat's models say of each fold, and of each training instance by its own."""
        tests, train, _ = self._waiting.pop(repeat)
        self._tests[repeat] = self._others(tests), tests
        own = self.folds[repeat], np.arange(train.shape[1])
        self._own[:, repeat] = self._others(train)[own], train[own]

    def _others(self, values: Array) -> Array:
        """Of each row, the mean over the other rows."""
        return left_out(values, self.aggregate)

    @property
    def own(self) -> Contrast:
        """Of every training instance on itself, ``(n,)``."""
        return self._contrast(self._own[0], self._own[1])

    def on_tests(self) -> Iterator[tuple[slice, Contrast]]:
        """Of some training instances at a time on the test instances, ``(b, m)``."""
        inside, outside = (np.stack([self._tests[r][side] for r in sorted(self._tests)]) for side in (0, 1))
        repeats, n = self.folds.shape
        size, every = max(1, PIECE_BYTES // (8 * repeats * inside.shape[2])), np.arange(repeats)[:, None]
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            which = every, self.folds[:, rows]
            yield rows, self._contrast(inside[which], outside[which])

    def _contrast(self, inside: Array, outside: Array) -> Contrast:
        """From both sides in every repeat, ``(repeats, ...)``."""
        spread = outside.std(axis=0, ddof=1) if len(outside) > 1 else np.full(outside.shape[1:], np.nan)
        counts = np.bincount(self._group).astype(np.float64)
        with_, without = (grouped(side, self._group, self.aggregate) for side in (inside, outside))
        left = with_[:0]
        if self.debias:
            parts = (tuple(np.delete(a, g, axis=0) for a in (with_, without, counts)) for g in range(len(counts)))
            left = np.stack([self._value(*part) for part in parts])
        elif len(counts) > 1:
            left = self._without_each(with_, without, counts)
        means = [averaged(side, self.aggregate, counts) for side in (with_, without)]
        return Contrast(means[0], means[1], self._value(with_, without, counts), left, spread)

    def _value(self, inside: Array, outside: Array, counts: Array) -> Array:
        """From both sides in every group."""
        value = averaged(inside, self.aggregate, counts) - averaged(outside, self.aggregate, counts)
        if not self.debias:
            return value
        left = self._without_each(inside, outside, counts).mean(axis=0)
        return np.asarray(len(counts) * value - (len(counts) - 1) * left)

    def _without_each(self, inside: Array, outside: Array, counts: Array) -> Array:
        found = left_out(inside, self.aggregate, counts)
        found -= left_out(outside, self.aggregate, counts)
        return found


def grouped(values: Array, group: NDArray[np.int64], aggregate: Aggregate) -> Array:
    """Sums over the first axis in every group, or logarithms of sums of exponentials, ``(groups, ...)``."""
    groups = int(group.max()) + 1
    if groups == len(group):
        return values
    add = np.add if aggregate == "mean_log" else np.logaddexp
    return np.stack([add.reduce(values[group == g], axis=0) for g in range(groups)])


def averaged(sums: Array, aggregate: Aggregate, counts: Array | None = None) -> Array:
    """Over the first axis: the mean, or the logarithm of the mean of exponentials.

    ``counts``: how many numbers each of ``sums`` is of, see ``grouped``; None means one.
    """
    total = len(sums) if counts is None else counts.sum()
    if aggregate == "mean_log":
        return np.asarray(sums.sum(axis=0) / total)
    return np.asarray(np.logaddexp.reduce(sums, axis=0) - np.log(total))


def left_out(sums: Array, aggregate: Aggregate, counts: Array | None = None) -> Array:
    """Of each index of the first axis, of two or more, the same over all others."""
    each = np.ones(len(sums)) if counts is None else counts
    others = (each.sum() - each).reshape(-1, *[1] * (sums.ndim - 1))
    if aggregate == "mean_log":
        return np.asarray((sums.sum(axis=0) - sums) / others)
    found = np.empty_like(sums)
    before = np.logaddexp.accumulate(sums, axis=0)
    after = np.logaddexp.accumulate(sums[::-1], axis=0)[::-1]
    found[0], found[-1] = after[1], before[-2]
    np.logaddexp(before[:-2], after[2:], out=found[1:-1])
    found -= np.log(others)
    return found
