"""Ridge regression in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influx.learners.linear import normal
from influx.learners.linear.learner import LinearLearner
from influx.learners.linear.system import System
from influx.problem import TaskName


@dataclass(frozen=True, kw_only=True)
class Ridge(LinearLearner):
    """Half the squared error with a penalty, by the normal equations; optimizer and training settings are unused.

    Attributes:
        weight_decay: of the mean objective; 0 is least squares.
        intercept: whether there is one.
        penalise_intercept: whether the weight decay includes it.
    """

    logistic: ClassVar[bool] = False
    task: ClassVar[TaskName] = "regression"
    name: ClassVar[str] = "ridge"
    other: ClassVar[str] = "logistic"

    def minimise(self, system: System, weights: Tensor, divisors: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Solve anew, or by downdating the solution on all data; ``start`` is not needed."""
        theta = normal.minimise(system, weights, divisors)
        return theta, theta @ system.x.T
