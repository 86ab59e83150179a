"""Tree ensembles as arrays: which leaf every instance falls into, and what the leaves add.

Nothing here knows a library. ``forest_reading`` fills a ``Forest`` from the trees that a learner grew and recomputes
the values of all leaves from the data before anything is attributed, so that an ensemble whose leaves follow another
rule is refused. Margins are ``(..., C, n)``: outputs before instances. C is 1 for regression and for two classes, whose
margin is that of class 1, and otherwise the number of classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from influx.errors import IncompatibleError
from influx.learners.trees.branches import Branches

Array = NDArray[np.float64]
Labels = NDArray[np.int64] | NDArray[np.float32] | Array
Leaves = NDArray[np.int32]
Name = Literal["squared_error", "logistic", "softmax", "share"]
Some = slice | NDArray[np.int64]  # instances
Number = TypeVar("Number", np.int64, np.float64)
STRETCH_BYTES = 32 << 20  # of rounds, and of terms of leaves, that are held at once
TOGETHER = 256  # test instances compared at once
EVERY = slice(None)


@dataclass(frozen=True)
class Objective:
    """Risk of an instance and its derivatives in the margins, in float64.

    ``y`` holds targets or class numbers (n,), ``margins`` are (..., C, n).

    Attributes:
        name: squared_error (half of it), logistic, softmax, or share: margins of averaged trees are values, or shares
            of classes (two columns for two classes), which have no derivatives here.
    """

    name: Name

    def risk(self, margins: Array, y: Labels) -> Array:
        """``(..., n)`` risk."""
        if self.name == "squared_error":
            return np.asarray(0.5 * np.square(margins[..., 0, :] - y))
        if self.name == "logistic":
            return np.logaddexp(0.0, np.where(y == 1, -1.0, 1.0) * margins[..., 0, :])
        if self.name == "softmax":
            own = margins[..., y.astype(np.int64), np.arange(len(y))]
            return np.asarray(np.logaddexp.reduce(margins, -2) - own)
        raise IncompatibleError("averaged trees have no risk of a margin; choose a boosted model such as lightgbm")

    def slopes(self, margins: Array, y: Labels) -> tuple[Array, Array]:
        """``(..., C, n)`` first derivatives g, and second ones h of each margin alone: the diagonal."""
        if self.name == "squared_error":
            return np.asarray(margins - y), np.ones_like(margins)
        p = self.means(margins)
        if self.name == "logistic":
            return np.asarray(p - (y == 1)), p * (1.0 - p)
        h = p * (1.0 - p)
        p[..., y.astype(np.int64), np.arange(len(y))] -= 1.0
        return p, h

    def means(self, margins: Array) -> Array:
        """``(..., C, n)`` predicted values or probabilities."""
        if self.name == "squared_error":
            return margins.copy()
        if self.name == "logistic":
            return np.asarray(expit(margins))
        if self.name == "softmax":
            p = margins - margins.max(-2, keepdims=True)
            np.exp(p, out=p)
            p /= p.sum(-2, keepdims=True)
            return np.asarray(p)
        raise IncompatibleError("averaged trees have no margins to differentiate; choose a boosted model")


@dataclass(frozen=True, kw_only=True)
class Forest:
    """T rounds of C trees each, over n training and m test instances.

    A boosted leaf's value is -rate · factor · Σ w g / (Σ w h + l2) over the training instances in it, with g and h at
    the margins before its round and w = 1; without ``newton`` h is 1. An averaged leaf's value is the in-bag mean of
    the targets, or the in-bag shares of classes, divided by T.

    Attributes:
        boosted: trees add up from round to round; otherwise they are independent and averaged.
        objective: the risk.
        train_y: ``(n,)`` targets or class numbers.
        test_y: ``(m,)`` the same of the test instances.
        base: ``(C,)`` margins before the first round.
        train_leaves: ``(T, C, n)`` leaf of each training instance, numbered from 0 within each tree.
        test_leaves: ``(T, C, m)`` the same of test instances.
        values: ``(leaves,)`` what each leaf adds to the margin, learning rate included, tree after tree.
        sizes: ``(T, C)`` leaves per tree; leaves may be empty.
        fixed: ``(T, C)`` trees whose values do not follow from the data: single leaves that a library leaves at 0.
        rate: learning rate.
        l2: the regulariser in the denominator.
        factor: multiplies the Newton step.
        newton: whether h or 1 is summed in the denominator.
        in_bag: ``(T, n)`` how often averaged trees drew each training instance; None for boosted ones.
        branches: the nodes of averaged trees, and what goes down them; None for boosted ones.
        tolerance: relative error of leaf values and margins that the library's own rounding explains.
    """

    boosted: bool
    objective: Objective
    train_y: Labels
    test_y: Labels
    base: Array
    train_leaves: Leaves
    test_leaves: Leaves
    values: Array
    sizes: NDArray[np.int64]
    fixed: NDArray[np.bool_]
    rate: float = 1.0
    l2: float = 0.0
    factor: float = 1.0
    newton: bool = True
    in_bag: NDArray[np.int64] | None = None
    branches: Branches | None = None
    tolerance: float = 1e-5

    @property
    def rounds(self) -> int:
        """T."""
        return len(self.sizes)

    @property
    def outputs(self) -> int:
        """C."""
        return int(self.sizes.shape[1])

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """``(T, C)`` place of each tree's first leaf in ``values``."""
        return (np.cumsum(self.sizes.ravel()) - self.sizes.ravel()).reshape(self.sizes.shape)

    def tree(self, t: int, c: int) -> Array:
        """``(L,)`` values of the leaves of one tree."""
        start = self.first[t, c]
        return self.values[start : start + self.sizes[t, c]]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First round and end of each stretch of rounds that are computed together."""
        instances = len(self.train_y) + len(self.test_y)
        each = 64 * self.outputs * instances + 8 * int(self.sizes.sum(axis=1).max()) * TOGETHER
        k = max(1, STRETCH_BYTES // each)
        return [(start, min(start + k, self.rounds)) for start in range(0, self.rounds, k)]

    def stretches(self) -> Iterable[Stretch]:
        """All rounds, as training and test instances go through them together.

        One stretch is kept: the check of the leaves and the estimator both go through it.
        """
        return self._whole if len(self.spans) == 1 else self._walk()

    @cached_property
    def _whole(self) -> list[Stretch]:
        return list(self._walk())

    def _walk(self) -> Iterator[Stretch]:
        y, n = np.concatenate([self.train_y, self.test_y]), len(self.train_y)
        margins = np.repeat(self.base[:, None], len(y), 1)
        for start, stop in self.spans:
            rounds, k = slice(start, stop), stop - start
            place = slice(int(self.first[start, 0]), int(self.first[start, 0] + self.sizes[rounds].sum()))
            numbers, shift = np.empty((k, *margins.shape), np.int64), self.first[rounds, :, None] - place.start
            np.add(self.train_leaves[rounds], shift, out=numbers[..., :n])
            np.add(self.test_leaves[rounds], shift, out=numbers[..., n:])
            walked, added = np.empty((k + 1, *margins.shape)), self.values[place].take(numbers)
            walked[0] = margins
            for before, step, after in zip(walked, added, walked[1:], strict=False):  # cumsum takes 3 times as long
                np.add(before, step, out=after)
            margins = walked[-1]
            yield Stretch(rounds, place, n, numbers, walked[:-1], margins, self.objective, y, self.newton)

    def margins(self, upto: int | None = None, rows: tuple[Some, Some] = (EVERY, EVERY)) -> tuple[Array, Array]:
        """Margins ``(C, n)`` and ``(C, m)`` after ``upto`` rounds (all by default) of training and test instances.

        ``rows`` are the ones that are wanted.
        """
        if upto is None and len(self.spans) == 1:
            after, n = self._whole[0].after, len(self.train_y)
            return after[:, :n][:, rows[0]], after[:, n:][:, rows[1]]
        found = []
        for leaves in (self.train_leaves[..., rows[0]], self.test_leaves[..., rows[1]]):
            total = np.tile(self.base[:, None], leaves.shape[-1])
            for start, stop in self.spans:
                rounds = slice(start, stop if upto is None else min(stop, upto))
                total = total + self.values[leaves[rounds] + self.first[rounds, :, None]].sum(0)
            found.append(total)
        return found[0], found[1]

    def newton_step(self, first: Array, second: Array) -> Array:
        """Leaf values from Σ w g and Σ w h (without ``newton`` Σ w) of leaves, of any shape; 0 for an empty leaf."""
        below = second + self.l2
        some = below > 0
        return np.where(some, -self.rate * self.factor * first / np.where(some, below, 1.0), 0.0)

    @cached_property
    def targets(self) -> Array:
        """``(C, n)`` whose in-bag means averaged trees hold: targets, or whether an instance is of a class."""
        y = self.train_y[None]
        return np.asarray(y if self.outputs == 1 else y == np.arange(self.outputs)[:, None], np.float64)

    @cached_property
    def sums(self) -> Array:
        """``(3, leaves)`` over training instances: Σ g, Σ h (averaged: drawn targets and draws) and their number."""
        found = np.empty((3, len(self.values)))
        for s in self.stretches():
            numbers = s.train(s.numbers).ravel()
            for total, part in zip(found, (*self._terms(s), None), strict=True):
                total[s.place] = np.bincount(numbers, None if part is None else part.ravel(), s.leaves)
        return found

    def recomputed(self) -> Array:
        """``(leaves,)`` values from the data by the rule of the class; those of ``fixed`` trees as they are."""
        over, under, _ = self.sums
        found = self.newton_step(over, under) if self.boosted else over / np.maximum(under, 1e-300) / self.rounds
        return np.where(np.repeat(self.fixed.ravel(), self.sizes.ravel()), self.values, found)

    def _terms(self, s: Stretch) -> tuple[Array, Array]:
        """``(k, C, n)`` of instances, whose sums over leaves are divided."""
        if self.boosted:
            return s.train(s.slopes[0]), s.train(s.slopes[1])
        drawn = np.ones((1, 1, 1)) if self.in_bag is None else self.in_bag[s.rounds, None].astype(np.float64)
        drawn = np.broadcast_to(drawn, s.train(s.numbers).shape)
        return drawn * self.targets, drawn


@dataclass(frozen=True)
class Stretch:
    """Consecutive rounds, k of them.

    Attributes:
        rounds: first and end.
        place: where their leaves are among all.
        n: how many of the instances are training instances; they come first, then m test instances.
        numbers: ``(k, C, n + m)`` leaf of each instance, numbered through the stretch.
        before: ``(k, C, n + m)`` margins before each round.
        after: ``(C, n + m)`` margins after the last of them.
        objective: the risk.
        y: ``(n + m,)`` targets or class numbers.
        newton: whether second derivatives count.
    """

    rounds: slice
    place: slice
    n: int
    numbers: NDArray[np.int64]
    before: Array
    after: Array
    objective: Objective
    y: Labels
    newton: bool

    @cached_property
    def slopes(self) -> tuple[Array, Array]:
        """``(k, C, n + m)`` g and h before each round; without ``newton`` h is 1."""
        g, h = self.objective.slopes(self.before, self.y)
        return g, h if self.newton else np.ones_like(h)

    def train(self, each: NDArray[Number]) -> NDArray[Number]:
        """``(..., n)`` those of training instances."""
        return each[..., : self.n]

    def test(self, each: NDArray[Number]) -> NDArray[Number]:
        """``(..., m)`` those of test instances."""
        return each[..., self.n :]

    @property
    def leaves(self) -> int:
        """In all trees of the stretch."""
        return int(self.place.stop - self.place.start)
