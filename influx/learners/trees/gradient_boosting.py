"""Gradient boosting of scikit-learn on sorted inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from influx.learners.trees import nodes
from influx.learners.trees.ensemble import Ensemble, Rule, Sample
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.settings import check_ranges, check_rate, check_shares


@dataclass(frozen=True, kw_only=True)
class GradientBoosting(TreeLearner):
    """Boosted trees with exact splits, for small tables; optimizer and training settings are unused.

    Attributes:
        n_estimators: rounds, each of one tree or one per class.
        learning_rate: multiplies every leaf.
        max_depth: most levels; null for any.
        max_leaf_nodes: most leaves of a tree, best splits first; null for any.
        min_samples_split: fewest instances in a node that is split.
        min_samples_leaf: fewest instances in a leaf.
        min_impurity_decrease: least gain of a split.
        max_features: inputs that a split may use: a share, sqrt, log2, or null for all.
    """

    name: ClassVar[str] = "gradient_boosting"
    package: ClassVar[str] = "sklearn"
    file: ClassVar[str] = "trees.npz"

    n_estimators: int = 100
    learning_rate: float = 0.1
    max_depth: int | None = 3
    max_leaf_nodes: int | None = None
    min_samples_split: int = 2
    min_samples_leaf: int = 1
    min_impurity_decrease: float = 0.0
    max_features: float | Literal["sqrt", "log2"] | None = None

    deterministic: ClassVar[bool] = False  # splits of equal gain are chosen by chance

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(self, n_estimators=1, max_depth=1, max_leaf_nodes=2, min_samples_split=2, min_samples_leaf=1)
        check_ranges(self, min_impurity_decrease=0)
        check_shares(self, "max_features")
        check_rate(self)

    @property
    def rounds(self) -> int:
        """T."""
        return self.n_estimators

    @property
    def levels(self) -> float:
        """Usual depth of a tree."""
        return self.max_depth or 8

    @property
    def leaves(self) -> float:
        """Most leaves of a tree."""
        return min(self.max_leaf_nodes or math.inf, 2.0**self.max_depth if self.max_depth else math.inf)

    def rule(self, outputs: int) -> Rule:
        """Several classes have leaves that are (C-1)/C of a Newton step."""
        return Rule(rate=self.learning_rate, factor=(outputs - 1) / outputs if outputs > 2 else 1.0)

    def grow(self, sample: Sample, seed: int) -> Ensemble:
        """Grow the trees."""
        from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

        made = GradientBoostingClassifier if sample.classes else GradientBoostingRegressor
        booster = made(
            n_estimators=self.n_estimators,
            learning_rate=self.learning_rate,
            max_depth=self.max_depth,
            max_leaf_nodes=self.max_leaf_nodes,
            min_samples_split=self.min_samples_split,
            min_samples_leaf=self.min_samples_leaf,
            min_impurity_decrease=self.min_impurity_decrease,
            max_features=self.max_features,
            random_state=seed % 2**31,
        ).fit(sample.x, sample.y, sample.weights)
        trees = [grown(tree.tree_) for tree in booster.estimators_.ravel()]
        scaled = [(*tree[:4], tree[4] * self.learning_rate) for tree in trees]
        base = np.asarray(booster._raw_predict_init(sample.x[:1])[0], np.float64)
        return nodes.joined(scaled, sample.outputs, base, partial(nodes.predicted, booster, sample.classes))

    def read(self, path: Path, sample: Sample) -> Ensemble:
        """Trees as saved."""
        return nodes.load(path)


def grown(tree: Any) -> nodes.Part:
    """Arrays of one of scikit-learn's trees."""
    feature = np.where(tree.children_left < 0, -1, tree.feature)
    return feature, tree.threshold, tree.children_left, tree.children_right, tree.value[:, 0, :]
