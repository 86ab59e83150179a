"""Trained trees: what they make of instances, and their leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from influx import reads
from influx.learners.trees import outcomes as told
from influx.learners.trees.ensemble import Array, Ensemble, Rule
from influx.problem import Data, Outcomes, Split

if TYPE_CHECKING:
    from influx.learners.trees.learner import TreeLearner


def flat(split: Split) -> NDArray[np.float32]:
    """``(n, d)`` inputs as one row of numbers per instance."""
    return np.ascontiguousarray(split.x.reshape(len(split), -1), np.float32)


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Trees grown from some instances, or what is said instead where those allow none.

    Attributes:
        data: the whole dataset (task and classes).
        averaged: how many trees are averaged; 0 for boosted ones.
        present: the classes among the instances.
        instances: their total weight.
        ensemble: the trees; None where there is nothing to split.
        constant: ``(1,)`` value or ``(classes,)`` log shares of classes without trees.
    """

    data: Data
    present: NDArray[np.int64]
    instances: float
    ensemble: Ensemble | None
    averaged: int = 0
    constant: Array | None = None

    def values(self, x: NDArray[np.float32]) -> Array:
        """``(1, n)`` predicted values or ``(classes, n)`` log probabilities."""
        if self.ensemble is None:
            assert self.constant is not None
            return np.tile(self.constant[:, None], len(x))
        margins = self.ensemble.margins(x)
        if self.data.task == "regression":
            return margins
        logs = told.of_votes(margins, self.averaged) if self.averaged else told.of_margins(margins)
        return told.completed(logs, self.present, len(self.data.classes), self.instances)

    def outcomes(self, x: NDArray[np.float32], y: NDArray[np.generic]) -> Outcomes:
        """Loss, margin and prediction of each instance."""
        return told.outcomes(self.values(x), y, self.data.task)


@dataclass(frozen=True, kw_only=True)
class TreesFitted:
    """The trained model, read from ``file``."""

    learner: TreeLearner
    predictor: Predictor
    file: Path | None = None

    @property
    def rule(self) -> Rule:
        """How leaf values come about."""
        return self.learner.rule(self.predictor.data.n_outputs)

    @property
    def ensemble(self) -> Ensemble:
        """The trees."""
        assert self.predictor.ensemble is not None
        self._note()
        return self.predictor.ensemble

    def outcomes(self, split: Split) -> Outcomes:
        """Loss, margin and prediction of each instance."""
        self._note()
        return self.predictor.outcomes(flat(split), split.y)

    def margins(self, split: Split) -> Array:
        """``(C, n)`` what the library predicts."""
        return self.ensemble.margins(flat(split))

    def leaves(self, split: Split) -> NDArray[np.int32]:
        """``(T, C, n)`` leaf of every instance."""
        return self.ensemble.leaves(flat(split))

    def _note(self) -> None:
        if self.file is not None:
            reads.note(self.file)
