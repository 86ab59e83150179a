"""What models that hold, and models that lack an instance together say of instances, over repeated cross-validation.

Every repeat cuts the training instances into folds and trains one model without each. An instance's two sides in a
repeat are the model without its fold and all others, so that they depend on its fold alone: a table per repeat of
(folds, instances) holds all there is to know. Densities are averaged by exact sums of logarithms, without the
differences of sums in which small ones are lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Aggregate = Literal["logmeanexp", "mean_log"]
PIECE_BYTES = 64 << 20  # of the values of some training instances in all repeats


class Contrast(NamedTuple):
    """Mixtures with and without each training instance, on some instances.

    Attributes:
        inside: logarithm of the mean density (or mean logarithm) of the models with it.
        outside: of those without it.
        left: ``(repeats, ...)`` inside minus outside without each repeat; of one repeat, nothing.
    """

    inside: Array
    outside: Array
    left: Array

    @property
    def value(self) -> Array:
        """Inside minus outside."""
        return self.inside - self.outside

    @property
    def stderr(self) -> Array:
        """Jackknife over repeats; NaN of one repeat."""
        return jackknifed(self.left)

    @property
    def debiased(self) -> Array:
        """The value less the jackknife's estimate of its bias."""
        repeats = len(self.left)
        return np.asarray(repeats * self.value - (repeats - 1) * self.left.mean(axis=0))


def jackknifed(left: Array) -> Array:
    """Standard error from what is found without each of the repeats (repeats, ...)."""
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
    """

    folds: NDArray[np.int64]
    models: int
    aggregate: Aggregate

    def __post_init__(self) -> None:
        """Nothing is collected yet."""
        repeats, n = self.folds.shape
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
        left = inside[:0]
        if len(inside) > 1:
            left = left_out(inside, self.aggregate) - left_out(outside, self.aggregate)
        return Contrast(averaged(inside, self.aggregate), averaged(outside, self.aggregate), left)


def averaged(values: Array, aggregate: Aggregate) -> Array:
    """Over the first axis: the mean, or the logarithm of the mean of exponentials."""
    if aggregate == "mean_log":
        return np.asarray(values.mean(axis=0))
    return np.asarray(np.logaddexp.reduce(values, axis=0) - np.log(len(values)))


def left_out(values: Array, aggregate: Aggregate) -> Array:
    """Of each index of the first axis, of two or more, the same over all others."""
    others = len(values) - 1
    if aggregate == "mean_log":
        return np.asarray((values.sum(axis=0) - values) / others)
    found = np.empty_like(values)
    before = np.logaddexp.accumulate(values, axis=0)
    after = np.logaddexp.accumulate(values[::-1], axis=0)[::-1]
    found[0], found[-1] = after[1], before[-2]
    np.logaddexp(before[:-2], after[2:], out=found[1:-1])
    return np.asarray(found - np.log(others))
