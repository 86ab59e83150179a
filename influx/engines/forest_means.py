"""Averaged trees with their splits kept and their leaves computed anew from the instances that are left.

A leaf holds the in-bag mean of the targets in it, or the in-bag shares of the classes. Where everything on one side of
a split is gone, the split goes too, and the other side takes all that comes there; a tree that lost all its instances
is left out, and where that leaves no tree the mean of all instances that are left is said. That is what growing the
same trees again does as long as no other split changes, every other instance being in its samples as often as before
(``loss_norm=full``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from influx.engines.forest import TOGETHER, Array, Forest, Labels, Leaves
from influx.engines.forest_matches import add_matches
from influx.learners.trees import outcomes as told
from influx.learners.trees.branches import Branches, Numbers


@dataclass(frozen=True)
class Means:
    """The leaves of one averaged forest: T trees of one output, L leaves numbered through them all."""

    forest: Forest

    @cached_property
    def train(self) -> Numbers:
        """``(T, n)`` leaf of each training instance."""
        return self._numbered(self.forest.train_leaves)

    @cached_property
    def test(self) -> Numbers:
        """``(T, m)`` leaf of each test instance."""
        return self._numbered(self.forest.test_leaves)

    @cached_property
    def drawn(self) -> Array:
        """``(T, n)`` how often each tree drew each training instance."""
        bag = self.forest.in_bag
        return np.ones(self.train.shape) if bag is None else bag.astype(np.float64)

    @property
    def branches(self) -> Branches:
        """The nodes."""
        assert self.forest.branches is not None
        return self.forest.branches

    @property
    def report(self) -> dict[str, int]:
        """How many trees and leaves there are, and leaves that one instance fills, whose removal undoes a split."""
        sole = int(np.unique(self.train[self._empties]).size)
        return {"trees": self.forest.rounds, "leaves": self._leaves, "leaves_of_one": sole}

    def without_each(self, values: NDArray[np.float64], check: Callable[[], None]) -> Array:
        """Effect of each removal on test risks, added to zeros ``values`` (n, m), and on the instance's own risk (n,).

        ``check`` is called now and then.
        """
        f, (counts, means) = self.forest, self._trained
        kills = self._empties & (f.sizes[:, :1] == 1)  # the tree had no split
        trees = f.rounds - kills.sum(0)
        own = self._detoured(means, self.train, self.branches.train, f.train_y) * self._empties
        detours = self._detoured(means, self.test, self.branches.test, f.test_y)
        self._spread(values, slice(None), self._empties.astype(np.float64), detours, check)
        mine, theirs = (self._label(y) for y in (f.train_y, f.test_y))
        for c, target in enumerate(f.targets):
            left = counts[self.train] - self.drawn
            moved = (means[self.train, c] * counts[self.train] - self.drawn * target) / np.where(left > 0, left, 1.0)
            moved = np.where((self.drawn > 0) & (left > 0), moved - means[self.train, c], 0.0)
            own[:, mine == c] += moved[:, mine == c]
            columns = np.flatnonzero(theirs == c)
            for start in range(0, len(columns), TOGETHER):
                part = columns[start : start + TOGETHER]
                found = np.zeros((len(values), len(part)))
                self._spread(found, part, moved, np.ones((f.rounds, len(part))), check)
                values[:, part] += found
        before = self._sums(means, self.train, f.train_y)
        itself = self.risk(before + own.sum(0), trees, f.train_y)
        before = self._sums(means, self.test, f.test_y)
        for start in range(0, values.shape[1], TOGETHER):
            some = slice(start, start + TOGETHER)
            values[:, some] = self.risk(before[some] + values[:, some], trees[:, None], f.test_y[some])
        for i in np.flatnonzero((trees == 0) | self._sole):  # few: no tree is left, or a class is gone
            gone = np.arange(len(values)) == i
            values[i] = self._risk_without(gone, self.branches.test, f.test_y)
            itself[i] = self._risk_without(gone, self.branches.train[[i]], f.train_y[[i]])[0]
        values -= self._risks[1]
        return np.asarray(itself - self._risks[0])

    def without(self, gone: NDArray[np.bool_]) -> Array:
        """``(m,)`` effect on test risks of removing a group ``gone`` (n,)."""
        return self._risk_without(gone, self.branches.test, self.forest.test_y) - self._risks[1]

    def _risk_without(self, gone: NDArray[np.bool_], x: NDArray[np.float32], y: Labels) -> Array:
        """``(k,)`` risk of instances (k, d) under a forest without a group, as the learner has it.

        Without a tree it says the mean, or the shares of the classes, which is also all that is learned from equal
        inputs or one class; classes that are gone get what one more instance would give them.
        """
        f, left, inputs = self.forest, self.forest.targets[:, ~gone], self.branches.train[~gone]  # left: (C, n left)
        held, n = left.sum(1), left.shape[1]
        present = np.flatnonzero(held)
        if n == 0 or (f.outputs > 1 and len(present) < 2) or bool((inputs == inputs[0]).all()):
            if f.outputs == 1:
                return np.asarray(0.5 * np.square(held[0] / max(n, 1) - y))
            return np.asarray(-told.shares(held)[self._label(y)])
        counts, means = self._refit(self.drawn * ~gone)
        trees, leaves = int((np.add.reduceat(counts, self._first) > 0).sum()), self.branches.rerouted(counts, x)
        sums = np.stack([means[leaves, c].sum(0) for c in range(f.outputs)])  # (C, k)
        if not trees:
            trees, sums = 1, np.repeat(held[:, None] / n, len(y), 1)
        if f.outputs == 1:
            return np.asarray(0.5 * np.square(sums[0] / trees - y))
        logs = told.completed(told.of_votes(sums[present] / trees, trees), present, f.outputs, n)
        return np.asarray(-logs[self._label(y), np.arange(len(y))])

    def risk(self, sums: Array, trees: NDArray[np.int64] | int, y: Labels) -> Array:
        """Risk from sums over ``trees`` trees of values, or of shares of the label's class.

        Shares have one more tree that is undecided, as in the learner; without a tree it means nothing.
        """
        if self.forest.outputs == 1:
            return np.asarray(0.5 * np.square(sums / np.maximum(trees, 1) - y))
        return np.asarray(-np.log((sums + 1 / self.forest.outputs) / (np.asarray(trees) + 1)))

    @cached_property
    def _risks(self) -> tuple[Array, Array]:
        """``(n,)`` and ``(m,)`` of training and test instances, nothing removed."""
        f, means = self.forest, self._trained[1]
        sides = ((self.train, f.train_y), (self.test, f.test_y))
        train, test = (self.risk(self._sums(means, leaves, y), f.rounds, y) for leaves, y in sides)
        return train, test

    @cached_property
    def _sole(self) -> NDArray[np.bool_]:
        """``(n,)`` instances that are all of their class."""
        f = self.forest
        return np.asarray((f.outputs > 1) & (f.targets.sum(1)[self._label(f.train_y)] == 1))

    @cached_property
    def _trained(self) -> tuple[Array, Array]:
        return self._refit(self.drawn)

    def _refit(self, weights: Array) -> tuple[Array, Array]:
        """``(L,)`` sums of weights (T, n) and ``(L, C)`` means of the targets; 0 for an empty leaf."""
        at, size = self.train.ravel(), self._leaves
        counts: Array = np.bincount(at, weights.ravel(), size).astype(np.float64)
        sums = [np.bincount(at, (weights * target).ravel(), size) for target in self.forest.targets]
        return counts, np.stack(sums, 1) / np.where(counts > 0, counts, 1.0)[:, None]

    def _sums(self, means: Array, leaves: Numbers, y: Labels) -> Array:
        """``(k,)`` sums over trees of values, or of shares of the labels ``y``, at leaves (T, k)."""
        return np.asarray(means[leaves, self._label(y)].sum(0))

    def _detoured(self, means: Array, leaves: Numbers, x: NDArray[np.float32], y: Labels) -> Array:
        """``(T, k)`` how values at ``leaves`` change if these leaves are cut off; a tree of one leaf is left out."""
        label, alone = self._label(y), self.forest.sizes[:, :1] == 1
        return np.where(alone, 0.0, means[self.branches.detours(x), label]) - means[leaves, label]

    def _spread(
        self, found: Array, part: slice | NDArray[np.int64], mine: Array, theirs: Array, check: Callable[[], None]
    ) -> None:
        """Add Σ over trees of 1[same leaf] ``mine`` (T, n) ``theirs`` (T, k) to ``found`` (n, k)."""
        for start, stop in self.forest.spans:
            check()
            trees = slice(start, stop)
            ids = [leaves[trees] - self._first[start] for leaves in (self.train, self.test[:, part])]
            add_matches(found, (ids[0], ids[1]), (mine[trees], theirs[trees]))

    @cached_property
    def _empties(self) -> NDArray[np.bool_]:
        """``(T, n)`` where an instance alone fills its leaf."""
        return np.asarray(self._trained[0][self.train] <= self.drawn)

    @cached_property
    def _first(self) -> Numbers:
        """``(T,)`` first leaf of each tree."""
        sizes = self.forest.sizes[:, 0]
        return np.asarray(np.cumsum(sizes) - sizes)

    @property
    def _leaves(self) -> int:
        return int(self.forest.sizes[:, 0].sum())

    def _numbered(self, leaves: Leaves) -> Numbers:
        return np.asarray(leaves[:, 0] + self._first[:, None])

    def _label(self, y: Labels) -> Numbers:
        """``(k,)`` column of the leaves' means that counts for instances: that of their class."""
        return np.zeros(len(y), np.int64) if self.forest.outputs == 1 else y.astype(np.int64)
