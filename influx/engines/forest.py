"""Tree ensembles as arrays: which leaf every instance falls into, and what the leaves add.

Nothing here knows a library. Learners fill a ``Forest`` from the trees they trained; ``check`` recomputes the values
of all leaves from the data before anything is attributed, so that an ensemble whose leaves follow another rule is
refused. Margins are ``(..., C, n)``: outputs before instances. C is 1 for regression and for two classes, whose
margin is that of class 1, and otherwise the number of classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from influx.errors import IncompatibleError
from influx.learners.trees.fitted import TreesFitted
from influx.problem import Data

Array = NDArray[np.float64]
Labels = NDArray[np.int64] | NDArray[np.float32] | Array
Leaves = NDArray[np.int32]
Name = Literal["squared_error", "logistic", "softmax", "share"]


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
            own = np.take_along_axis(margins, self._column(margins, y), -2)[..., 0, :]
            return np.asarray(np.logaddexp.reduce(margins, -2) - own)
        raise IncompatibleError("averaged trees have no risk of a margin; choose a boosted model such as lightgbm")

    def first(self, margins: Array, y: Labels) -> Array:
        """``(..., C, n)`` first derivatives g."""
        if self.name == "squared_error":
            return np.asarray(margins - y)
        if self.name == "logistic":
            return np.asarray(self.means(margins) - (y == 1))
        found = self.means(margins)
        column = self._column(margins, y)
        np.put_along_axis(found, column, np.take_along_axis(found, column, -2) - 1.0, -2)
        return found

    def second(self, margins: Array) -> Array:
        """``(..., C, n)`` second derivatives h, of each margin alone: the diagonal."""
        if self.name == "squared_error":
            return np.ones_like(margins)
        p = self.means(margins)
        return np.asarray(p * (1.0 - p))

    def third(self, margins: Array) -> Array:
        """``(..., C, n)`` third derivatives, of each margin alone."""
        if self.name == "squared_error":
            return np.zeros_like(margins)
        p = self.means(margins)
        return np.asarray(p * (1.0 - p) * (1.0 - 2.0 * p))

    def means(self, margins: Array) -> Array:
        """``(..., C, n)`` predicted values or probabilities."""
        if self.name == "squared_error":
            return margins.copy()
        if self.name == "logistic":
            return np.asarray(expit(margins))
        if self.name == "softmax":
            raised = np.exp(margins - margins.max(-2, keepdims=True))
            return np.asarray(raised / raised.sum(-2, keepdims=True))
        raise IncompatibleError("averaged trees have no margins to differentiate; choose a boosted model")

    @staticmethod
    def _column(margins: Array, y: Labels) -> NDArray[np.int64]:
        return np.broadcast_to(y.astype(np.int64), (*margins.shape[:-2], 1, margins.shape[-1]))


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

    def added(self, t: int, leaves: Leaves) -> Array:
        """``(C, n)`` what round t adds to instances in these leaves (T, C, n)."""
        return np.asarray(self.values[self.first[t][:, None] + leaves[t]])

    def walk(self) -> Iterator[tuple[int, Array, Array]]:
        """Rounds with the margins before each: t, ``(C, n)`` of training and ``(C, m)`` of test instances.

        The two arrays are updated in place from one round to the next; copy what is kept.
        """
        train, test = (
            np.tile(self.base[:, None], leaves.shape[-1]) for leaves in (self.train_leaves, self.test_leaves)
        )
        for t in range(self.rounds):
            yield t, train, test
            train += self.added(t, self.train_leaves)
            test += self.added(t, self.test_leaves)

    def margins(self, upto: int | None = None) -> tuple[Array, Array]:
        """Margins ``(C, n)`` and ``(C, m)`` after ``upto`` rounds (all by default) of training and test instances."""
        upto = self.rounds if upto is None else upto
        found = []
        for leaves in (self.train_leaves, self.test_leaves):
            total = np.tile(self.base[:, None], leaves.shape[-1])
            for t in range(upto):
                total += self.added(t, leaves)
            found.append(total)
        return found[0], found[1]

    def newton_step(self, first: Array, second: Array) -> Array:
        """Leaf values from Σ w g and Σ w h (without ``newton`` Σ w) of leaves, of any shape; 0 for an empty leaf."""
        below = second + self.l2
        some = below > 0
        return np.where(some, -self.rate * self.factor * first / np.where(some, below, 1.0), 0.0)

    def recomputed(self) -> Array:
        """``(leaves,)`` values from the data by the rule of the class; those of ``fixed`` trees as they are."""
        found = self.values.copy()
        for t, train, _ in self.walk():
            if self.boosted:
                g = self.objective.first(train, self.train_y)
                h = self.objective.second(train) if self.newton else np.ones_like(train)
            for c in range(self.outputs):
                if self.fixed[t, c]:
                    continue
                start, size, leaf = self.first[t, c], self.sizes[t, c], self.train_leaves[t, c]
                if self.boosted:
                    sums = (np.bincount(leaf, part[c], size).astype(np.float64) for part in (g, h))
                    found[start : start + size] = self.newton_step(*sums)
                else:
                    found[start : start + size] = self._averaged(t, c, leaf, size)
        return found

    def _averaged(self, t: int, c: int, leaf: Leaves, size: np.int64) -> Array:
        drawn = np.ones(len(leaf)) if self.in_bag is None else self.in_bag[t].astype(np.float64)
        target = self.train_y if self.outputs == 1 else self.train_y == c
        sums, counts = np.bincount(leaf, drawn * target, size), np.bincount(leaf, drawn, size)
        return np.asarray(sums / np.maximum(counts, 1e-300) / self.rounds)


def check(forest: Forest, train: Array, test: Array, name: str) -> Forest:
    """The forest itself, if it is what the library trained.

    Args:
        forest: as read from the library.
        train: ``(C, n)`` the library's own margins of the training instances (of averaged trees: their means).
        test: ``(C, m)`` the same of the test instances.
        name: of the model, for the message.

    Raises:
        IncompatibleError: leaf values recomputed from the data, or margins, differ by more than its rounding.
    """
    ours = forest.margins()
    pairs = {
        "leaf values recomputed from the data": (forest.recomputed(), forest.values),
        "margins of training instances": (ours[0], train),
        "margins of test instances": (ours[1], test),
    }
    for what, (mine, its) in pairs.items():
        allowed = forest.tolerance * max(1e-3, float(np.abs(its).max(initial=0.0)))
        gap = float(np.abs(mine - its).max(initial=0.0)) if mine.shape == its.shape else np.inf
        if not gap <= allowed:
            raise IncompatibleError(
                f"{what} must equal those of model={name} for attribution, they differ by up to {gap:.3g} where "
                f"{allowed:.1g} is allowed; use the default settings of model={name} or a retraining estimator"
            )
    return forest


def read(fitted: TreesFitted, data: Data) -> Forest:
    """The trained trees as they see ``data``, checked against the library.

    Raises:
        IncompatibleError: the leaves follow another rule than that of ``Forest``, or a class has no training instance.
    """
    rule, leaves = fitted.rule, fitted.ensemble.values()
    if data.task == "classification" and len(fitted.predictor.present) < len(data.classes):
        raise IncompatibleError(
            f"tree methods need training instances of every class, dataset={data.name} has only "
            f"{len(fitted.predictor.present)} of {len(data.classes)} in its training split; raise dataset.n_train"
        )
    forest = Forest(
        boosted=rule.boosted,
        objective=Objective(_name(data) if rule.boosted else "share"),
        train_y=data.train.y,
        test_y=data.test.y,
        base=leaves.base,
        train_leaves=fitted.leaves(data.train),
        test_leaves=fitted.leaves(data.test),
        values=leaves.values,
        sizes=leaves.sizes,
        fixed=leaves.fixed,
        rate=rule.rate,
        l2=rule.l2,
        factor=rule.factor,
        newton=rule.newton,
        in_bag=leaves.in_bag,
        tolerance=rule.tolerance,
    )
    return check(forest, fitted.margins(data.train), fitted.margins(data.test), fitted.learner.name)


def _name(data: Data) -> Name:
    if data.task == "regression":
        return "squared_error"
    return "logistic" if len(data.classes) == 2 else "softmax"
