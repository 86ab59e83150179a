"""Gradient boosting of scikit-learn on histograms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.learners.trees import nodes
from influx.learners.trees.ensemble import Array, Ensemble, Rule, Sample
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.settings import check_ranges, check_rate, check_shares


@dataclass(frozen=True, kw_only=True)
class HistGradientBoosting(TreeLearner):
    """Boosted trees on histograms, needs no further package; optimizer and training settings are unused.

    Attributes:
        max_iter: rounds, each of one tree or one per class.
        learning_rate: multiplies every leaf.
        max_leaf_nodes: most leaves of a tree; null for any.
        max_depth: most levels; null for any.
        min_samples_leaf: fewest instances in a leaf.
        l2_regularization: penalty on squared leaf values.
        max_features: share of the inputs that a split may use.
        max_bins: bins of each input, at most 255.
    """

    name: ClassVar[str] = "hist_gradient_boosting"
    package: ClassVar[str] = "sklearn"
    file: ClassVar[str] = "trees.npz"

    max_iter: int = 100
    learning_rate: float = 0.1
    max_leaf_nodes: int | None = 31
    max_depth: int | None = None
    min_samples_leaf: int = 20
    l2_regularization: float = 0.0
    max_features: float = 1.0
    max_bins: int = 255

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(self, max_iter=1, max_leaf_nodes=2, max_depth=1, min_samples_leaf=1, l2_regularization=0)
        check_ranges(self, max_bins=2)
        check_shares(self, "max_features")
        check_rate(self)
        if self.max_bins > 255:
            raise ConfigError(f"model.max_bins must be at most 255, got {self.max_bins}; set model.max_bins=255")

    @property
    def rounds(self) -> int:
        """T."""
        return self.max_iter

    @property
    def levels(self) -> float:
        """Usual depth of a tree."""
        return self.max_depth or float(np.log2(self.max_leaf_nodes or 256)) + 2

    @property
    def leaves(self) -> float:
        """Most leaves of a tree."""
        return min(self.max_leaf_nodes or math.inf, 2.0**self.max_depth if self.max_depth else math.inf)

    @property
    def deterministic(self) -> bool:
        """Whether no inputs are drawn."""
        return self.max_features == 1

    def rule(self, outputs: int) -> Rule:
        """One Newton step."""
        return Rule(rate=self.learning_rate, l2=self.l2_regularization)

    def grow(self, sample: Sample, seed: int) -> Ensemble:
        """Grow the trees."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        made = HistGradientBoostingClassifier if sample.classes else HistGradientBoostingRegressor
        booster = made(
            max_iter=self.max_iter,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.max_leaf_nodes,
            max_depth=self.max_depth,
            min_samples_leaf=self.min_samples_leaf,
            l2_regularization=self.l2_regularization,
            max_features=self.max_features,
            max_bins=self.max_bins,
            early_stopping=False,
            random_state=seed % 2**31,
        )
        with _threads().limit(limits=1, user_api="openmp"):  # sums over instances depend on the number of threads
            booster.fit(sample.x, sample.y, sample.weights)
        trees = [grown(tree.nodes) for round_ in booster._predictors for tree in round_]
        base = np.asarray(booster._baseline_prediction, np.float64).reshape(-1)

        def library(x: NDArray[np.float32]) -> Array:
            with _threads().limit(limits=1, user_api="openmp"):
                return nodes.predicted(booster, sample.classes, x)

        return nodes.joined(trees, sample.outputs, base, library, fixed=True)

    def read(self, path: Path, sample: Sample) -> Ensemble:
        """Trees as saved."""
        return nodes.load(path)


@cache
def _threads() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def grown(tree: Any) -> nodes.Part:
    """Arrays of one of scikit-learn's trees on histograms."""
    leaf = tree["is_leaf"].astype(bool)
    feature = np.where(leaf, -1, tree["feature_idx"])
    return feature, tree["num_threshold"], tree["left"].astype(np.int64), tree["right"].astype(np.int64), tree["value"]
