"""Boosted trees in plain loops, and toys of every installed library.

Which instance is in which leaf, and the library's rate and regulariser, are read from the trained forest; risks,
derivatives and refits are written out here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.learners.trees.catboost import CatBoost
from influx.learners.trees.extra_trees import ExtraTrees
from influx.learners.trees.gradient_boosting import GradientBoosting
from influx.learners.trees.hist_gradient_boosting import HistGradientBoosting
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.lightgbm import LightGBM
from influx.learners.trees.random_forest import RandomForest
from influx.learners.trees.xgboost import XGBoost
from influx.oracles import plain
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, estimator_named, learned, table
from influx.problem import Data

Forest = Any  # a run's forest, of which only the arrays and settings are read
Labels = NDArray[Any]
BOOSTED: tuple[TreeLearner, ...] = (
    LightGBM(n_estimators=3, max_depth=2, min_child_samples=3, reg_lambda=0.5),
    XGBoost(n_estimators=3, max_depth=2),
    CatBoost(iterations=3, depth=2),
    HistGradientBoosting(max_iter=3, max_depth=2, min_samples_leaf=3),
    GradientBoosting(n_estimators=3, max_depth=2, min_samples_leaf=3),
)
AVERAGED: tuple[TreeLearner, ...] = (RandomForest(n_estimators=4, max_depth=3), ExtraTrees(n_estimators=3))


def problems() -> Iterator[Data]:
    """Values, two classes and three."""
    three = table("classification", 20, 4)
    yield table("regression", 20, 4)
    yield _merged(three)
    yield three


def _merged(three: Data) -> Data:
    """The first and last of three classes are one: leaves are mixed."""
    train, test = (replace(split, y=split.y % 2) for split in (three.train, three.test))
    return replace(three, train=train, test=test, classes=three.classes[:2])


def toys(below: Path, learners: tuple[TreeLearner, ...] = BOOSTED) -> Iterator[tuple[str, Toy, Trees]]:
    """Each installed library on each problem."""
    for data in problems():
        kind = f"{len(data.classes)} classes" if data.classes else "regression"
        for number, learner in enumerate(learners):
            if importlib.util.find_spec(learner.package) is not None:
                toy = learned(below, data, learner)
                forest = toy.run(estimator_named("boostin"), "oracle").forest
                before = sum(one.name == learner.name for one in learners[:number])
                name = f"{learner.name} {before + 1}" if before else learner.name
                yield f"{kind}, {name}", toy, Trees(forest, len(data.classes))


@dataclass(frozen=True)
class Trees:
    """A forest in plain loops; ``classes`` is 0 for regression. Margins are ``(n, C)``."""

    forest: Forest
    classes: int

    def risk(self, margins: Array, y: Labels) -> Array:
        """``(n,)`` risk."""
        if not self.classes:
            return np.asarray(0.5 * (margins[:, 0] - y) ** 2)
        return np.array([-np.log(p[int(label)]) for p, label in zip(self.shares(margins), y, strict=True)])

    def shares(self, margins: Array) -> Array:
        """``(n, classes)`` probabilities."""
        return plain.softmax(np.concatenate([0 * margins, margins], 1) if self.classes == 2 else margins)

    def slopes(self, margins: Array, y: Labels) -> tuple[Array, Array]:
        """First derivatives, and second of each margin alone, ``(n, C)``."""
        if not self.classes:
            return margins - y[:, None], np.ones_like(margins)
        p = self.shares(margins)
        p = p[:, 1:] if self.classes == 2 else p
        labels = [1] if self.classes == 2 else range(self.classes)
        right = np.array([[float(int(label) == k) for k in labels] for label in y])
        return p - right, p * (1 - p) if self.forest.newton else np.ones_like(p)

    def bent(self, margins: Array, moved: Array) -> tuple[Array, Array]:
        """Changes of ``slopes`` when margins move by ``moved`` (n, C)."""
        if not self.classes:
            return moved, 0 * moved
        p = self.shares(margins)
        whole = np.concatenate([0 * moved, moved], 1) if self.classes == 2 else moved
        first = np.array([(np.diag(q) - np.outer(q, q)) @ m for q, m in zip(p, whole, strict=True)])
        second = (1 - 2 * p) * first if self.forest.newton else 0 * first
        return (first[:, 1:], second[:, 1:]) if self.classes == 2 else (first, second)

    def leaf(self, t: int, c: int, leaf: int, weights: Array, g: Array, h: Array) -> float:
        """Value of one leaf."""
        f = self.forest
        if f.fixed[t, c]:
            return float(f.values[f.first[t, c] + leaf])
        up, down = 0.0, f.l2
        for i in np.flatnonzero(f.train_leaves[t, c] == leaf):
            up, down = up + weights[i] * g[i, c], down + weights[i] * h[i, c]
        return float(-f.rate * f.factor * up / down) if down > 0 else 0.0

    def walk(self, weights: Array, base: Array) -> Iterator[tuple[int, Array, Array]]:
        """Margins before every round, and after the last."""
        f = self.forest
        mine, theirs = (np.tile(base, (len(y), 1)) for y in (f.train_y, f.test_y))
        for t in range(f.rounds):
            yield t, mine, theirs
            g, h = self.slopes(mine, f.train_y)
            mine, theirs = mine.copy(), theirs.copy()
            for c in range(f.outputs):
                for leaf in range(f.sizes[t, c]):
                    value = self.leaf(t, c, leaf, weights, g, h)
                    mine[f.train_leaves[t, c] == leaf, c] += value
                    theirs[f.test_leaves[t, c] == leaf, c] += value
        yield f.rounds, mine, theirs

    def trained(self) -> Iterator[tuple[int, Array, Array]]:
        """Margins before every round by the library's own leaf values."""
        f = self.forest
        mine, theirs = (np.tile(f.base, (len(y), 1)) for y in (f.train_y, f.test_y))
        for t in range(f.rounds):
            yield t, mine, theirs
            mine, theirs = mine.copy(), theirs.copy()
            for c in range(f.outputs):
                for leaf, value in enumerate(f.tree(t, c)):
                    mine[f.train_leaves[t, c] == leaf, c] += value
                    theirs[f.test_leaves[t, c] == leaf, c] += value

    def margins(self, weights: Array, refit_base: bool = False) -> tuple[Array, Array]:
        """After the last round, ``(n, C)`` and ``(m, C)``."""
        *_, last = self.walk(weights, self.base(weights) if refit_base else self.forest.base)
        return last[1], last[2]

    def base(self, weights: Array) -> Array:
        """Margins of the weighted mean or shares."""
        y = self.forest.train_y
        if not self.classes:
            return np.array([(weights * y).sum() / weights.sum()])
        shares = np.array([weights[y == k].sum() for k in range(self.classes)]) / weights.sum()
        return np.asarray(np.log(shares[1:] / shares[:1]) if self.classes == 2 else np.log(shares))

    def risks(self, weights: Array, refit_base: bool = False) -> tuple[Array, Array]:
        """``(n,)`` and ``(m,)`` with all leaves refitted."""
        mine, theirs = self.margins(weights, refit_base)
        return self.risk(mine, self.forest.train_y), self.risk(theirs, self.forest.test_y)
