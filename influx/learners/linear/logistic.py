"""Logistic regression at its optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influx.errors import ConfigError
from influx.learners.linear import newton
from influx.learners.linear.learner import LinearLearner
from influx.learners.linear.system import System
from influx.models.settings import check_count
from influx.problem import TaskName


@dataclass(frozen=True, kw_only=True)
class Logistic(LinearLearner):
    """Softmax regression with a penalty, by Newton's method; optimizer and training settings are unused.

    The objective has one weight vector per class. The solver works with differences to the last class, which have
    the same optimum. ``model=linear`` trains the same objective by gradient steps.

    Attributes:
        weight_decay: of the mean objective; above 0 unless the classes overlap.
        intercept: whether there is one per class.
        penalise_intercept: whether the weight decay includes it; without, a subset that lacks a class pushes that
            class's intercept towards minus infinity until the tolerance is met.
        tolerance: norm of the objective's gradient at which a model counts as solved.
        max_steps: Newton steps after which the solver gives up.
    """

    logistic: ClassVar[bool] = True
    task: ClassVar[TaskName] = "classification"
    name: ClassVar[str] = "logistic"
    other: ClassVar[str] = "ridge"

    tolerance: float = 1e-10
    max_steps: int = 100

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not 0 < self.tolerance < math.inf:
            raise ConfigError(f"model.tolerance must be a number above 0, got {self.tolerance}; set for example 1e-10")
        check_count("max_steps", self.max_steps)

    def minimise(self, system: System, weights: Tensor, divisors: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's method for all rows together."""
        return newton.minimise(system, weights / divisors[:, None], start, self.tolerance, self.max_steps)
