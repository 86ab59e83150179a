"""A k-nearest-neighbour predictor that stands for the trained model: its settings, features and game."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines.neighbour_games import Coalitions, NeighbourGame, Utility
from influx.engines.neighbours import BLOCK_BYTES, Metric, Neighbours
from influx.errors import ConfigError
from influx.planning import Prospect, Work
from influx.problem import Data, Split

if TYPE_CHECKING:
    from influx.run import Run

Features = Literal["penultimate", "raw"]


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Settings of a k-nearest-neighbour predictor that stands for the trained model."""

    k: int = 5
    utility: Utility = "fixed_k"
    features: Features = "penultimate"
    metric: Metric = "l2"
    own: bool = False

    @property
    def refuses(self) -> Mapping[str, str]:
        """Perspectives without an answer, with the reason."""
        return {} if self.own else {"memorization": "the value of each instance for itself needs estimator.own=true"}

    def __post_init__(self) -> None:
        """Check ranges; features of the data need no model."""
        if self.k < 1:
            raise ConfigError(f"estimator.k must be at least 1, got {self.k}; raise it")
        for name, choices in (("utility", Utility), ("features", Features), ("metric", Metric)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"estimator.{name} must be {' or '.join(get_args(choices))}, got {getattr(self, name)!r}; change it"
                )
        if self.features == "raw":
            object.__setattr__(self, "requires", frozenset())

    def check(self, data: Data) -> None:
        """Refuse data that the settings do not fit.

        Raises:
            ConfigError: naming the setting.
        """
        if self.utility == "soft" and data.task == "regression":
            raise ConfigError("estimator.utility=soft is for classes, and this is regression; use fixed_k")
        if self.features == "raw" and data.kind == "text":
            raise ConfigError(
                "estimator.features=raw has no distances between texts; use estimator.features=penultimate"
            )

    def prepared(
        self, run: Run, nearest: int | None = None, coalitions: Coalitions | None = None
    ) -> tuple[Neighbours, Split, NeighbourGame]:
        """Training instances to be ordered, test features, and the game for the test instances."""
        data = run.problem.data
        self.check(data)
        train, test = (
            Split(x=self._features(run, split), y=split.y, ids=split.ids) for split in (data.train, data.test)
        )
        ordered = Neighbours(train, self.metric, nearest)
        game = NeighbourGame(
            train=train.y[ordered.by_id],
            test=test.y,
            k=self.k,
            classes=len(data.classes) if data.task == "classification" else 0,
            utility=self.utility,
            coalitions=coalitions or Coalitions(),
        )
        return ordered, test, game

    def _features(self, run: Run, split: Split) -> NDArray[Any]:
        if self.features == "raw":
            return split.x.reshape(len(split), -1)
        return np.asarray(run.features.penultimate(split).double().cpu().numpy())

    def planned(self, prospect: Prospect, ordering: float) -> Work:
        """Work with ``ordering`` comparisons per distance."""
        data = prospect.problem.data
        self.check(data)
        n, m = len(data.train), len(data.test)
        columns = m + n if self.own else m
        raw = self.features == "raw"
        d, macs = (data.train.x[0].size, 0.0) if raw else prospect.represented
        passes = 2.0 * (n + m) * macs
        return Work(
            flops=passes + 4.0 * n * columns * (d + 2),
            numbers=12.0 * n * columns,
            compared=n * columns * ordering,
            bytes=8.0 * n * m + 24.0 * n * (d + 2) + 2.0 * BLOCK_BYTES,
            formula=f"{n} x {columns} distances of {d} features",
        )
