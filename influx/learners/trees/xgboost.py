"""XGBoost."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.learners.trees.ensemble import Array, Ensemble, Leaves, Rule, Sample
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.settings import check_ranges, check_rate, check_shares

NO_PARENT = 2**31 - 1
ARRAYS = {"left_children": ">i4", "parents": ">i4", "split_conditions": ">f4"}  # of a tree, in the file's order
HEADS = [f"{name}[${'d' if 'f' in kind else 'l'}#L".encode() for name, kind in ARRAYS.items()]


@dataclass(frozen=True, kw_only=True)
class XGBoost(TreeLearner):
    """Boosted trees with second derivatives, in single precision; optimizer and training settings are unused.

    Attributes:
        n_estimators: rounds, each of one tree or one per class.
        learning_rate: multiplies every leaf.
        max_depth: most levels; 0 for any.
        max_leaves: most leaves of a tree; 0 for any.
        grow_policy: depthwise, or lossguide (the best split first).
        min_child_weight: least sum of second derivatives in a leaf.
        gamma: least gain of a split.
        reg_lambda: penalty on squared leaf values.
        colsample_bytree: share of the inputs that a tree may use.
        colsample_bylevel: share of those that a level may use.
        colsample_bynode: share of those that a split may use.
        max_bin: bins of each input.
    """

    name: ClassVar[str] = "xgboost"
    package: ClassVar[str] = "xgboost"
    file: ClassVar[str] = "trees.json"

    n_estimators: int = 100
    learning_rate: float = 0.3
    max_depth: int = 6
    max_leaves: int = 0
    grow_policy: Literal["depthwise", "lossguide"] = "depthwise"
    min_child_weight: float = 1.0
    gamma: float = 0.0
    reg_lambda: float = 1.0
    colsample_bytree: float = 1.0
    colsample_bylevel: float = 1.0
    colsample_bynode: float = 1.0
    max_bin: int = 256

    def __post_init__(self) -> None:
        """Check ranges."""
        check_ranges(self, n_estimators=1, max_depth=0, max_leaves=0, min_child_weight=0, gamma=0, reg_lambda=0)
        check_ranges(self, max_bin=2)
        check_shares(self, "colsample_bytree", "colsample_bylevel", "colsample_bynode")
        check_rate(self)
        if not self.max_depth and not self.max_leaves:
            raise ConfigError("model.max_depth=0 needs model.max_leaves, got 0; set for example model.max_leaves=31")

    @property
    def rounds(self) -> int:
        """T."""
        return self.n_estimators

    @property
    def levels(self) -> float:
        """Usual depth of a tree."""
        return self.max_depth or float(np.log2(self.max_leaves)) + 2

    @property
    def leaves(self) -> float:
        """Most leaves of a tree."""
        return min(self.max_leaves or math.inf, 2.0**self.max_depth if self.max_depth else math.inf)

    @property
    def deterministic(self) -> bool:
        """Whether no inputs are drawn."""
        return self.colsample_bytree == self.colsample_bylevel == self.colsample_bynode == 1

    def rule(self, outputs: int) -> Rule:
        """Several classes have second derivatives that are twice those of the risk."""
        factor = 0.5 if outputs > 2 else 1.0
        rate = float(np.float32(self.learning_rate))
        return Rule(rate=rate, factor=factor, l2=float(np.float32(self.reg_lambda)) * factor, tolerance=1e-4)

    def grow(self, sample: Sample, seed: int) -> Ensemble:
        """Grow the trees."""
        import xgboost

        objectives = {0: "reg:squarederror", 2: "binary:logistic"}
        settings: dict[str, Any] = {
            "objective": objectives.get(sample.classes, "multi:softprob"),
            "learning_rate": self.learning_rate,
            "max_depth": self.max_depth,
            "max_leaves": self.max_leaves,
            "grow_policy": self.grow_policy,
            "min_child_weight": self.min_child_weight,
            "gamma": self.gamma,
            "reg_lambda": self.reg_lambda,
            "colsample_bytree": self.colsample_bytree,
            "colsample_bylevel": self.colsample_bylevel,
            "colsample_bynode": self.colsample_bynode,
            "max_bin": self.max_bin,
            "tree_method": "hist",
            "device": "cpu",
            "seed": seed,
            "nthread": 1,
            "verbosity": 0,
        }
        if sample.classes > 2:
            settings["num_class"] = sample.classes
        data = xgboost.DMatrix(sample.x, label=sample.y, weight=sample.weights, nthread=1)
        booster = xgboost.Booster(settings, [data])
        for number in range(self.n_estimators):
            booster.update(data, number)
        return Boosted(booster=booster)

    def read(self, path: Path, sample: Sample) -> Ensemble:
        """Trees as saved."""
        import xgboost

        booster = xgboost.Booster({"nthread": 1, "verbosity": 0, "device": "cpu"})
        booster.load_model(bytearray(path.read_bytes()))
        return Boosted(booster=booster)


@dataclass(frozen=True, kw_only=True)
class Boosted:
    """Trees of XGBoost."""

    booster: Any

    @property
    def rounds(self) -> int:
        """T."""
        return int(self.booster.num_boosted_rounds())

    def margins(self, x: NDArray[np.float32]) -> Array:
        """``(C, n)``."""
        return self._margins(self._matrix(x))

    def leaves(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """``(T, C, n)``, nodes numbered among the leaves."""
        return self._leaves(self._matrix(x))

    def seen(self, x: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], Array]:
        """Leaves, and margins of ``rows``."""
        matrix = self._matrix(x)
        return self._leaves(matrix), self._margins(matrix.slice(rows))

    def _margins(self, matrix: Any) -> Array:
        found = self.booster.predict(matrix, output_margin=True, strict_shape=True)
        return np.ascontiguousarray(found.T, np.float64)

    def _leaves(self, matrix: Any) -> NDArray[np.int32]:
        nodes = self.booster.predict(matrix, pred_leaf=True, strict_shape=True)  # (n, T, C, 1)
        first, is_leaf = self._structure
        passed = np.cumsum(is_leaf, dtype=np.int32)  # leaves up to each node of all trees
        number = passed - 1 - np.repeat(passed[first] - is_leaf[first], self._arrays[0])
        place = nodes.reshape(len(nodes), -1).T.astype(np.int64) + first[:, None]
        return np.asarray(number[place].reshape(self.rounds, -1, len(nodes)))

    def values(self, leaves: NDArray[np.int32]) -> Leaves:
        """What the leaves add."""
        first, is_leaf = self._structure
        learner = json.loads(self.booster.save_config())["learner"]
        parameters = learner["learner_model_param"]
        base = np.array(parameters["base_score"].strip("[]").split(","), np.float32).astype(np.float64)
        classes = max(int(parameters["num_class"]), 1)
        if learner["objective"]["name"] == "binary:logistic":
            base = np.log(base / (1 - base))
        sizes = np.add.reduceat(is_leaf, first, dtype=np.int64).reshape(self.rounds, classes)
        return Leaves(
            base=np.broadcast_to(base, (classes,)).copy(),
            values=self._arrays[1][2][is_leaf].astype(np.float64),
            sizes=sizes,
            fixed=np.zeros(sizes.shape, np.bool_),
        )

    @cached_property
    def _binary(self) -> bytes:
        """Universal Binary JSON: for small models parsing text takes longer than everything else."""
        return bytes(self.booster.save_raw("ubj"))

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
        """Nodes of each tree, by round, then class, and their ``ARRAYS``, those of all trees together.

        A tree's array is its name, ``[$``, kind, ``#L``, length and numbers of four bytes.
        """
        binary, lengths, at = self._binary, [], 0
        parts: list[list[bytes]] = [[] for _ in ARRAYS]
        while (found := binary.find(HEADS[0], at)) >= 0:
            at = found
            for head, part in zip(HEADS, parts, strict=True):
                start = binary.index(head, at) + len(head) + 8
                at = start + 4 * int.from_bytes(binary[start - 8 : start], "big")
                part.append(binary[start:at])
            lengths.append((at - start) // 4)
        kinds = ARRAYS.values()
        return np.array(lengths), [np.frombuffer(b"".join(part), kind) for part, kind in zip(parts, kinds, strict=True)]

    @cached_property
    def _structure(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """First node of each tree, and which nodes of all trees are leaves; pruned ones have no parent."""
        lengths, (children, parents, _) = self._arrays
        attached, first = parents != NO_PARENT, np.cumsum(lengths) - lengths
        attached[first] = True
        return first, (children == -1) & attached

    @staticmethod
    def _matrix(x: NDArray[np.float32]) -> Any:
        import xgboost

        return xgboost.DMatrix(x, nthread=1)

    def save(self, path: Path) -> None:
        """XGBoost's JSON."""
        path.write_bytes(bytes(self.booster.save_raw("json")))
