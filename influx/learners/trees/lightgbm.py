"""LightGBM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.errors import IncompatibleError
from influx.learners.trees.ensemble import Array, Ensemble, Leaves, Rule, Sample
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.settings import check_ranges, check_rate, check_shares


@dataclass(frozen=True, kw_only=True)
class LightGBM(TreeLearner):
    """Boosted trees that grow leaf by leaf on histograms; optimizer and training settings are unused.

    Attributes:
        n_estimators: rounds, each of one tree or one per class.
        learning_rate: multiplies every leaf.
        num_leaves: most leaves of a tree.
        max_depth: most levels; -1 for any.
        min_child_samples: fewest instances in a leaf.
        min_child_weight: least sum of second derivatives in a leaf.
        min_split_gain: least gain of a split.
        reg_lambda: penalty on squared leaf values.
        colsample_bytree: share of the inputs that a tree may use.
        colsample_bynode: share of those that a split may use.
        max_bin: bins of each input.
    """

    name: ClassVar[str] = "lightgbm"
    package: ClassVar[str] = "lightgbm"
    file: ClassVar[str] = "trees.txt"

    n_estimators: int = 100
    learning_rate: float = 0.1
    num_leaves: int = 31
    max_depth: int = -1
    min_child_samples: int = 20
    min_child_weight: float = 1e-3
    min_split_gain: float = 0.0
    reg_lambda: float = 0.0
    colsample_bytree: float = 1.0
    colsample_bynode: float = 1.0
    max_bin: int = 255

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(self, n_estimators=1, num_leaves=2, max_depth=-1, min_child_samples=1, min_child_weight=0)
        check_ranges(self, min_split_gain=0, reg_lambda=0, max_bin=2)
        check_shares(self, "colsample_bytree", "colsample_bynode")
        check_rate(self)

    @property
    def rounds(self) -> int:
        """T."""
        return self.n_estimators

    @property
    def levels(self) -> float:
        """Usual depth of a tree."""
        return self.max_depth if self.max_depth > 0 else float(np.log2(self.num_leaves)) + 2

    @property
    def leaves(self) -> float:
        """Most leaves of a tree."""
        return self.num_leaves

    @property
    def deterministic(self) -> bool:
        """Whether no inputs are drawn."""
        return self.colsample_bytree == self.colsample_bynode == 1

    def rule(self, outputs: int) -> Rule:
        """Several classes have second derivatives that are C/(C-1) times those of the risk."""
        factor = (outputs - 1) / outputs if outputs > 2 else 1.0
        return Rule(rate=self.learning_rate, factor=factor, l2=self.reg_lambda * factor)

    def grow(self, sample: Sample, seed: int) -> Ensemble:
        """Grow the trees."""
        import lightgbm

        settings: dict[str, Any] = {
            "objective": ("regression", "", "binary")[sample.classes] if sample.classes < 3 else "multiclass",
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "max_depth": self.max_depth,
            "min_child_samples": self.min_child_samples,
            "min_child_weight": self.min_child_weight,
            "min_split_gain": self.min_split_gain,
            "reg_lambda": self.reg_lambda,
            "colsample_bytree": self.colsample_bytree,
            "colsample_bynode": self.colsample_bynode,
            "max_bin": self.max_bin,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        if sample.classes > 2:
            settings["num_class"] = sample.classes
        data = lightgbm.Dataset(sample.x, label=sample.y, weight=sample.weights, params=settings)
        booster = lightgbm.Booster(settings, data)
        for _ in range(self.n_estimators):
            if booster.update():  # no leaf can be split any more
                break
        return Boosted(booster=booster, sample=sample)

    def read(self, path: Path, sample: Sample) -> Ensemble:
        """Trees as saved."""
        import lightgbm

        booster = lightgbm.Booster(model_str=path.read_text("utf-8"))
        return Boosted(booster=booster, sample=sample)


@dataclass(frozen=True, kw_only=True)
class Boosted:
    """Trees of LightGBM; the first ones hold what prediction starts from, which ``sample`` tells."""

    booster: Any
    sample: Sample

    @property
    def rounds(self) -> int:
        """T."""
        return int(self.booster.current_iteration())

    def margins(self, x: NDArray[np.float32]) -> Array:
        """``(C, n)``."""
        return np.ascontiguousarray(self.booster.predict(x, raw_score=True, num_threads=1).reshape(len(x), -1).T)

    def leaves(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """``(T, C, n)``."""
        found = self.booster.predict(x, pred_leaf=True, num_threads=1).reshape(len(x), self.rounds, -1)
        return np.ascontiguousarray(found.transpose(1, 2, 0), np.int32)

    def seen(self, x: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], Array]:
        """Leaves, and margins of ``rows``."""
        return self.leaves(x), self.margins(x[rows])

    def values(self, leaves: NDArray[np.int32]) -> Leaves:
        """What the leaves add, the start taken out of the first round.

        Raises:
            IncompatibleError: there are leaves that none of the instances falls into.
        """
        sizes, base = leaves.max(-1).astype(np.int64) + 1, self.base
        there = int(self.booster.feature_importance("split").sum()) + sizes.size  # each split makes one leaf more
        if sizes.sum() != there:
            raise IncompatibleError(
                f"{there - sizes.sum()} of {there} leaves of model=lightgbm hold none of the training instances that "
                "the trees are seen with; give the training data that the trees grew from"
            )
        ask, trees = self.booster.get_leaf_output, enumerate(sizes.ravel().tolist())
        values = np.array([ask(tree, leaf) for tree, size in trees for leaf in range(size)])
        start = np.repeat(base, sizes[0])
        values[: len(start)] -= start
        alone = np.abs(values[np.cumsum(sizes) - 1]).reshape(sizes.shape) < 1e-12 * (1 + np.abs(base).max())
        return Leaves(base=base, values=values, sizes=sizes, fixed=(sizes == 1) & alone)

    @cached_property
    def base(self) -> Array:
        """``(C,)`` margins before the first round: the mean target, log odds, or log shares of classes."""
        if not self.sample.classes:
            labels = self.sample.y.astype(np.float32).astype(np.float64)
            return np.atleast_1d(np.average(labels, weights=self.sample.weights))
        shares = self.sample.shares
        return np.log(shares[1:] / shares[:1]) if len(shares) == 2 else np.log(shares)

    def save(self, path: Path) -> None:
        """LightGBM's text."""
        path.write_text(self.booster.model_to_string(), encoding="utf-8")
