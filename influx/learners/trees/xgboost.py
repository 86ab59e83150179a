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
from influx.learners.trees.ensemble import Array, Ensemble, Leaves, Rule, Sample, numbered
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.settings import check_ranges, check_rate, check_shares

NO_PARENT = 2**31 - 1
KINDS = {b"d#L": ">f4", b"D#L": ">f8", b"l#L": ">i4", b"L#L": ">i8"}  # of numbers in arrays


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
        found = self.booster.predict(self._matrix(x), output_margin=True, strict_shape=True)
        return np.ascontiguousarray(found.T, np.float64)

    def leaves(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """``(T, C, n)``, nodes numbered among the leaves."""
        nodes = self.booster.predict(self._matrix(x), pred_leaf=True, strict_shape=True)  # (n, T, C, 1)
        trees = nodes.reshape(len(nodes), len(self._is_leaf)).T.astype(np.int64)
        first = np.cumsum([0, *map(len, self._is_leaf)])[:-1]
        found = np.concatenate([numbered(leaf) for leaf in self._is_leaf])[trees + first[:, None]]
        return np.asarray(found.reshape(self.rounds, -1, len(nodes)))

    def values(self) -> Leaves:
        """What the leaves add."""
        pairs = zip(self._arrays("split_conditions"), self._is_leaf, strict=True)
        values = [conditions[leaf] for conditions, leaf in pairs]
        learner = json.loads(self.booster.save_config())["learner"]
        parameters = learner["learner_model_param"]
        base = np.array(parameters["base_score"].strip("[]").split(","), np.float32).astype(np.float64)
        classes = max(int(parameters["num_class"]), 1)
        if learner["objective"]["name"] == "binary:logistic":
            base = np.log(base / (1 - base))
        shape = (self.rounds, classes)
        return Leaves(
            base=np.broadcast_to(base, (classes,)).copy(),
            values=np.concatenate(values).astype(np.float64),
            sizes=np.array([len(v) for v in values], np.int64).reshape(shape),
            fixed=np.zeros(shape, np.bool_),
        )

    @cached_property
    def _binary(self) -> bytes:
        """Universal Binary JSON: for small models parsing text takes longer than everything else."""
        return bytes(self.booster.save_raw("ubj"))

    def _arrays(self, name: str) -> list[NDArray[Any]]:
        """An array of each tree, by round, then class: its name, ``[$``, kind, ``#L``, length and numbers."""
        head, found, at = f"{name}[$".encode(), [], 0
        while (at := self._binary.find(head, at) + len(head)) >= len(head):
            length = int.from_bytes(self._binary[at + 3 : at + 11], "big")
            found.append(np.frombuffer(self._binary, KINDS[self._binary[at : at + 3]], length, at + 11))
        return found

    @cached_property
    def _is_leaf(self) -> list[NDArray[np.bool_]]:
        """Nodes of each tree that are leaves; pruned ones have no parent."""
        found = []
        for parents, children in zip(self._arrays("parents"), self._arrays("left_children"), strict=True):
            attached = parents != NO_PARENT
            attached[:1] = True
            found.append((children == -1) & attached)
        return found

    @staticmethod
    def _matrix(x: NDArray[np.float32]) -> Any:
        import xgboost

        return xgboost.DMatrix(x, nthread=1)

    def save(self, path: Path) -> None:
        """XGBoost's JSON."""
        path.write_bytes(bytes(self.booster.save_raw("json")))
