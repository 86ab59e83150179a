"""CatBoost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from influx.learners.trees.ensemble import Array, Ensemble, Leaves, Rule, Sample
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.settings import check_ranges, check_rate, check_shares


@dataclass(frozen=True, kw_only=True)
class CatBoost(TreeLearner):
    """Boosted trees whose levels share a split, without ordering or bagging.

    Leaf values are one Newton step, for three and more classes one gradient step. Optimizer and training settings are
    unused.

    Attributes:
        iterations: rounds, each of one tree for all classes.
        learning_rate: multiplies every leaf.
        depth: levels.
        grow_policy: SymmetricTree, or Depthwise, whose splits differ within a level.
        min_data_in_leaf: fewest instances in a leaf of Depthwise.
        l2_leaf_reg: penalty on squared leaf values.
        rsm: share of the inputs that a level may use.
        random_strength: how much chance there is in the choice of a split.
        border_count: bins of each input.
    """

    name: ClassVar[str] = "catboost"
    package: ClassVar[str] = "catboost"
    file: ClassVar[str] = "trees.cbm"

    iterations: int = 100
    learning_rate: float = 0.1
    depth: int = 6
    grow_policy: Literal["SymmetricTree", "Depthwise"] = "SymmetricTree"
    min_data_in_leaf: int = 1
    l2_leaf_reg: float = 3.0
    rsm: float = 1.0
    random_strength: float = 0.0
    border_count: int = 254

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(self, iterations=1, depth=1, min_data_in_leaf=1, l2_leaf_reg=0, random_strength=0, border_count=1)
        check_shares(self, "rsm")
        check_rate(self)

    @property
    def rounds(self) -> int:
        """T."""
        return self.iterations

    @property
    def levels(self) -> float:
        """Depth of a tree."""
        return self.depth

    @property
    def leaves(self) -> float:
        """Most leaves of a tree."""
        return 2.0**self.depth

    @property
    def deterministic(self) -> bool:
        """Whether nothing is drawn."""
        return self.rsm == 1 and self.random_strength == 0

    def rule(self, outputs: int) -> Rule:
        """Several classes have leaves by gradients alone."""
        return Rule(rate=float(np.float32(self.learning_rate)), l2=float(self.l2_leaf_reg), newton=outputs <= 2)

    def grow(self, sample: Sample, seed: int) -> Ensemble:
        """Grow the trees."""
        import catboost

        settings: dict[str, Any] = {
            "loss_function": {0: "RMSE", 2: "Logloss"}.get(sample.classes, "MultiClass"),
            "iterations": self.iterations,
            "learning_rate": self.learning_rate,
            "depth": self.depth,
            "grow_policy": self.grow_policy,
            "l2_leaf_reg": self.l2_leaf_reg,
            "rsm": self.rsm,
            "random_strength": self.random_strength,
            "border_count": self.border_count,
            "random_seed": seed,
            "boosting_type": "Plain",
            "bootstrap_type": "No",
            "leaf_estimation_method": "Gradient" if sample.classes > 2 else "Newton",
            "leaf_estimation_iterations": 1,
            "leaf_estimation_backtracking": "No",
            "thread_count": 1,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }
        if self.grow_policy == "Depthwise":
            settings["min_data_in_leaf"] = self.min_data_in_leaf
        booster = catboost.CatBoost(settings)
        booster.fit(catboost.Pool(sample.x, sample.y, weight=sample.weights, thread_count=1))
        return Boosted(booster=booster)

    def read(self, path: Path, sample: Sample) -> Ensemble:
        """Trees as saved."""
        import catboost

        booster = catboost.CatBoost()
        booster.load_model(str(path), format="cbm")
        return Boosted(booster=booster)


@dataclass(frozen=True, kw_only=True)
class Boosted:
    """Trees of CatBoost; the leaves of one tree hold a value for every class."""

    booster: Any

    @property
    def rounds(self) -> int:
        """T."""
        return int(self.booster.tree_count_)

    def margins(self, x: NDArray[np.float32]) -> Array:
        """``(C, n)``."""
        return self._margins(self._pool(x))

    def leaves(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """``(T, C, n)``, the same for all classes."""
        return self._leaves(self._pool(x))

    def seen(self, x: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], Array]:
        """Leaves, and margins of ``rows``."""
        pool = self._pool(x)
        return self._leaves(pool), self._margins(pool.slice(rows))

    def _margins(self, pool: Any) -> Array:
        found = self.booster.predict(pool, prediction_type="RawFormulaVal", thread_count=1)
        return np.ascontiguousarray(np.reshape(found, (len(found), -1)).T)

    def _leaves(self, pool: Any) -> NDArray[np.int32]:
        found = self.booster.calc_leaf_indexes(pool, thread_count=1)
        found = np.ascontiguousarray(found.T, np.int32)[:, None]
        return np.broadcast_to(found, (len(found), len(self._base), found.shape[-1]))

    @staticmethod
    def _pool(x: NDArray[np.float32]) -> Any:
        import catboost

        return catboost.Pool(x, thread_count=1)

    def values(self, leaves: NDArray[np.int32]) -> Leaves:
        """What the leaves add."""
        outputs, sizes = len(self._base), np.asarray(self.booster.get_tree_leaf_counts(), np.int64)
        by_leaf = np.asarray(self.booster.get_leaf_values(), np.float64).reshape(-1, outputs)
        trees = np.split(by_leaf, np.cumsum(sizes)[:-1])
        shape = (len(sizes), outputs)
        return Leaves(
            base=self._base,
            values=np.concatenate([tree.T.ravel() for tree in trees]),
            sizes=np.repeat(sizes[:, None], outputs, 1),
            fixed=np.zeros(shape, np.bool_),
        )

    @property
    def _base(self) -> Array:
        return np.atleast_1d(np.asarray(self.booster.get_scale_and_bias()[1], np.float64))

    def save(self, path: Path) -> None:
        """CatBoost's own binary format."""
        self.booster.save_model(str(path), format="cbm")
