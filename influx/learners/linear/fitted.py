"""A linear model at its optimum."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import reads
from influx.learners.linear.system import System
from influx.problem import Data, LossNorm, Outcomes, Split

if TYPE_CHECKING:
    from influx.learners.linear.learner import LinearLearner


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """Parameters and what follows from them for any instances.

    Attributes:
        learner: the objective's settings.
        data: the dataset that the model belongs to (task, classes, names of features).
        theta: ``(K, q)`` parameters; for classes, differences to the last class (K = classes - 1).
    """

    learner: LinearLearner
    data: Data
    theta: Tensor

    @property
    def logistic(self) -> bool:
        """Softmax cross-entropy, or half the squared error."""
        return self.learner.logistic

    def system(self, split: Split) -> System:
        """Inputs, targets and penalty for some instances."""
        return self.learner.system(self.data, split)

    def outputs(self, system: System) -> Tensor:
        """``(K, n)`` values, or logits against the last class."""
        return self.theta @ system.x.T

    def residual(self, system: System) -> Tensor:
        """``(n, K)`` predicted minus observed."""
        return (system.means(self.outputs(system)[None])[0] - system.target).T.contiguous()

    def curvature(self, system: System) -> Tensor:
        """``(n, K, K)`` second derivative of every risk in the outputs."""
        packed = system.curvature(system.means(self.outputs(system)[None]))[0]
        outputs = len(self.theta)
        a, b = torch.tril_indices(outputs, outputs)
        found = torch.empty(packed.shape[1], outputs, outputs, dtype=packed.dtype)
        found[:, a, b] = found[:, b, a] = packed.T
        return found

    @staticmethod
    def penalty(system: System) -> Tensor:
        """``(K q, K q)`` Hessian of the penalty of the summed objective, outputs before inputs."""
        return torch.kron(system.coupling, torch.diag(system.penalty)) * len(system.x)

    def refit(self, split: Split, weights: NDArray[np.generic], norm: LossNorm) -> Tensor:
        """Parameters ``(models, K, q)`` for rows of instance weights, started from this model."""
        return self.learner.refit(self.system(split), torch.from_numpy(weights), norm, self.theta)[0]

    def written_out(self, theta: Tensor) -> Tensor:
        """``(..., outputs q)`` parameters of the objective: for classes one vector each, summing to 0 over classes."""
        if self.logistic:
            theta = torch.cat([theta, torch.zeros_like(theta[..., :1, :])], -2)
            theta = theta - theta.mean(-2, keepdim=True)
        return theta.flatten(-2)

    @property
    def names(self) -> list[str]:
        """What each number of ``written_out`` belongs to."""
        inputs = self.theta.shape[1] - self.learner.intercept
        names = list(self.data.features) if len(self.data.features) == inputs else [f"x{i}" for i in range(inputs)]
        names += ["intercept"] * self.learner.intercept
        return [f"{name} ({c})" for c in self.data.classes for name in names] if self.logistic else names


@dataclass(frozen=True)
class LinearFitted:
    """The trained model, read from ``file``."""

    solved: LinearModel
    file: Path

    @property
    def model(self) -> LinearModel:
        """What was solved."""
        reads.note(self.file)
        return self.solved

    def outcomes(self, split: Split) -> Outcomes:
        """Loss, margin and prediction of each instance."""
        model = self.model
        system = model.system(split)
        found = system.outcomes(model.outputs(system)[None])
        return Outcomes(loss=found.loss[0], margin=found.margin[0], prediction=found.prediction[0])
