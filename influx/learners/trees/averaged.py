"""Averaged trees of scikit-learn, grown independently on samples of the training instances."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.learners.trees import nodes
from influx.learners.trees.ensemble import Array, Ensemble, Rule, Sample
from influx.learners.trees.gradient_boosting import grown
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.settings import check_ranges, check_shares


@dataclass(frozen=True, kw_only=True)
class Averaged(TreeLearner):
    """Trees on samples of the instances, averaged.

    Predicted classes have the mean share of the trees, with one more tree that is undecided. A tree that drew no
    instance is left out; without any tree the mean, or the shares of the classes, are predicted. Under
    ``loss_norm=full`` trees draw from all training instances and those removed get the weight 0: the others keep their
    places in every sample. Under ``subset`` they draw from those that are left.

    Attributes:
        n_estimators: trees.
        max_depth: most levels; null for any.
        max_leaf_nodes: most leaves of a tree, best splits first; null for any.
        min_samples_split: fewest instances in a node that is split.
        min_samples_leaf: fewest instances in a leaf.
        min_impurity_decrease: least gain of a split.
        max_features: inputs that a split may use: a share, sqrt or log2; default is sqrt for classes, else all.
        bootstrap: draw with replacement, or grow every tree on everything.
        max_samples: draws, as a share of the training instances; null for all.
    """

    package: ClassVar[str] = "sklearn"
    file: ClassVar[str] = "trees.npz"
    in_place: ClassVar[bool] = True
    deterministic: ClassVar[bool] = False  # trees differ by chance

    n_estimators: int = 100
    max_depth: int | None = None
    max_leaf_nodes: int | None = None
    min_samples_split: int = 2
    min_samples_leaf: int = 1
    min_impurity_decrease: float = 0.0
    max_features: float | Literal["default", "sqrt", "log2"] = "default"
    bootstrap: bool = True
    max_samples: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(self, n_estimators=1, max_depth=1, max_leaf_nodes=2, min_samples_split=2, min_samples_leaf=1)
        check_ranges(self, min_impurity_decrease=0)
        check_shares(self, "max_features", "max_samples")
        if self.max_samples is not None and not self.bootstrap:
            raise ConfigError("model.max_samples needs model.bootstrap=true, got false; set it to null")

    @property
    def rounds(self) -> int:
        """T."""
        return self.n_estimators

    @property
    def levels(self) -> float:
        """Usual depth of a tree."""
        return self.max_depth or 10

    @property
    def leaves(self) -> float:
        """Most leaves of a tree."""
        return min(self.max_leaf_nodes or math.inf, 2.0**self.max_depth if self.max_depth else math.inf)

    def rule(self, outputs: int) -> Rule:
        """Leaves are means."""
        return Rule(boosted=False)

    @abstractmethod
    def tree(self, classes: int, **settings: Any) -> Any:
        """One of scikit-learn's trees."""

    def grow(self, sample: Sample, seed: int) -> Ensemble:
        """Grow the trees, each from its own random numbers."""
        n, rng = len(sample.y), np.random.Generator(np.random.PCG64(seed))
        weights = np.ones(n) if sample.weights is None else sample.weights
        draws = max(1, round(n * (self.max_samples or 1.0)))
        features = self.max_features
        if features == "default":
            features = "sqrt" if sample.classes else 1.0
        trees, bags, theirs = [], [], []
        for _ in range(self.n_estimators):
            state = int(rng.integers(2**31))
            drawn = np.bincount(rng.integers(n, size=draws), minlength=n) if self.bootstrap else np.ones(n, np.int64)
            kept = drawn * weights
            if not kept.any():
                continue
            tree = self.tree(
                sample.classes,
                max_depth=self.max_depth,
                max_leaf_nodes=self.max_leaf_nodes,
                min_samples_split=self.min_samples_split,
                min_samples_leaf=self.min_samples_leaf,
                min_impurity_decrease=self.min_impurity_decrease,
                max_features=features,
                random_state=state,
            ).fit(sample.x, sample.y, kept, check_input=False)
            part = grown(tree.tree_)
            trees.append((*part[:4], _shares(part[4], tree, sample.classes)))
            bags.append(drawn.astype(np.uint16))
            theirs.append(tree)
        if not trees:  # all drew only what was removed
            trees.append(_stump(sample, weights))
            bags.append((weights > 0).astype(np.uint16))
        library = partial(_voted, theirs, sample.classes) if theirs else None
        return nodes.joined(trees, 1, np.zeros(max(sample.classes, 1)), library, np.stack(bags))

    def read(self, path: Path, sample: Sample) -> Ensemble:
        """Trees as saved."""
        return nodes.load(path)


def _stump(sample: Sample, weights: Array) -> nodes.Part:
    """One leaf with everything."""
    target = (
        (sample.y[:, None] == np.arange(sample.classes)).astype(np.float64) if sample.classes else sample.y[:, None]
    )
    nowhere = np.full(1, -1, np.int64)
    return nowhere, np.zeros(1), nowhere, nowhere, np.average(target, axis=0, weights=weights)[None]


def _shares(value: Any, tree: Any, classes: int) -> Any:
    """``(nodes, classes)`` shares of all classes, or means: a tree may not have drawn every class."""
    if not classes:
        return value
    found = np.zeros((len(value), classes))
    found[:, np.asarray(tree.classes_, np.int64)] = value / value.sum(1, keepdims=True)
    return found


def _voted(trees: Sequence[Any], classes: int, x: NDArray[np.float32]) -> Array:
    """``(C, n)`` mean of what the library's trees predict themselves."""
    total = np.zeros((max(classes, 1), len(x)))
    for tree in trees:
        if classes:
            total[np.asarray(tree.classes_, np.int64)] += tree.predict_proba(x, check_input=False).T
        else:
            total[0] += tree.predict(x, check_input=False)
    return total / len(trees)
