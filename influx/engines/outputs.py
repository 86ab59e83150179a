"""Functions of a model's outputs whose gradients are compared in place of those of the risk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from influx.errors import IncompatibleError
from influx.learners.torch.tasks import Classification, Density, Regression, Task
from influx.problem import Problem

Output = Literal["margin", "loss", "square", "mean", "l1", "l2", "linf", "weighted_mse"]


def output_value(name: Output, task: Task, outputs: Tensor, y: Tensor) -> Tensor:
    """``(n,)``: margin, loss, or the mean of squares, mean, mean size, length or largest size of the outputs.

    Of ``weighted_mse`` it is the mean of squares of what they differ by from labels, one of them 1, or targets; the
    outputs of densities are such errors already, weighed by the model (others are refused: see ``check_errors``).
    """
    if name == "margin":
        return task.margin(outputs, y)
    if name == "loss" or (name == "weighted_mse" and isinstance(task, Density)):
        return task.loss(outputs, y)
    ways: dict[str, Callable[[], Tensor]] = {
        "square": lambda: outputs.square().mean(-1),
        "mean": lambda: outputs.mean(-1),
        "l1": lambda: outputs.abs().mean(-1),
        "l2": lambda: torch.linalg.vector_norm(outputs, dim=-1),
        "linf": lambda: outputs.abs().amax(-1),
        "weighted_mse": lambda: (outputs - task.encode(y, outputs.shape[-1], outputs.dtype)).square().mean(-1),
    }
    return ways[name]()


def check_errors(name: Output, problem: Problem) -> None:
    """Refuse ``weighted_mse`` of a risk that is not known to be made of squared errors.

    A model whose output is its risk says so by ``squared_errors``.

    Raises:
        IncompatibleError: the model does not say so, or the risk is a function of a person's own.
    """
    learner = problem.learner
    made = problem.data.task != "density" or getattr(getattr(learner, "model", None), "squared_errors", False)
    if name == "weighted_mse" and (not made or getattr(learner, "own_task", None) is not None):
        raise IncompatibleError(
            "estimator.output=weighted_mse asks for squared errors, and the risk of this model is not known to be made "
            "of them; set estimator.output=loss, which takes the risk as it is"
        )


@dataclass
class OutputGradients:
    """The gradient of a function of the outputs, to be given to ``GradientsAt.rows``; keeps the last slopes.

    ``slopes`` (b,) is how fast the risk falls when the function rises, |∂L/∂outputs| / |∂f/∂outputs|. For the margin
    the risk is a function of it, so that ∇L = -slope ∇f exactly: 1 - p_y for classes, whose risk is
    log(1 + exp(-margin)), the absolute error for regression, and one for densities. In float64: 1 - p_y of a fitted
    instance cancels in lower precision, the margin's own gradient does not.
    """

    task: Task
    name: Output = "margin"
    slopes: Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        """``(b, outputs)``."""
        exact, target = outputs.detach().double(), y.double() if y.is_floating_point() else y
        with torch.enable_grad():
            asked = exact.requires_grad_()
            (found,) = torch.autograd.grad(output_value(self.name, self.task, asked, target).sum(), asked)
        risk = self.task.output_gradient(exact.detach(), target).norm(dim=-1)
        own = found.norm(dim=-1)
        self.slopes = torch.where(own > 0, risk / own.clamp_min(torch.finfo(own.dtype).tiny), 0)
        return found.to(outputs.dtype)


def curvatures(task: Task, slopes: Tensor) -> Tensor:
    """``(b,)`` second derivative of the risk with respect to the margin: p (1 - p) for classes, 1 for regression.

    Raises:
        IncompatibleError: the risk is no curved function of the outputs.
    """
    if isinstance(task, Classification):
        return slopes * (1 - slopes)
    if isinstance(task, Regression):
        return torch.ones_like(slopes)
    raise IncompatibleError(
        "estimator.with_r weighs instances by the curvature of their risk, which a density's does not have; "
        "set estimator.with_r=false"
    )
