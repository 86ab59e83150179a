"""What a model's output means: risk, margin and prediction of an instance, and the derivatives of its risk.

Outputs have shape ``(..., n, outputs)`` with any leading model axes; targets have shape ``(n,)``.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from influx.errors import IncompatibleError
from influx.problem import TaskName


class Task(Protocol):
    """Risk per instance and what follows from it."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Risk of each instance, ``(..., n)``."""
        ...

    def encode(self, y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        """Targets in the space of outputs, ``(n, outputs)``: what ``residual`` subtracts."""
        ...

    def residual(self, outputs: Tensor, encoded: Tensor, dim: int = -1, out: Tensor | None = None) -> Tensor:
        """Gradient of each instance's risk with respect to its outputs, like ``outputs``; ``out`` takes it if given.

        ``dim`` is the axis of outputs of both arguments: -1, or -2 for ``(..., outputs, n)``.
        """
        ...

    def output_gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """``residual`` for targets that are not encoded yet."""
        ...

    def curvature_factor(self, outputs: Tensor, y: Tensor, k: int) -> Tensor:
        """l_k of the Hessian of the risk with respect to the outputs, Λ = Σ_k l_k l_kᵀ; shape of ``outputs``."""
        ...

    def curved(self, outputs: Tensor, directions: Tensor, dim: int = -1) -> Tensor:
        """Λ times ``directions``, which have the shape of ``outputs`` and any leading axes; outputs along ``dim``."""
        ...

    def margin(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Larger when the model is more right, ``(..., n)``."""
        ...

    def predict(self, outputs: Tensor) -> Tensor:
        """Class index or value, ``(..., n)``."""
        ...


class Classification:
    """Softmax cross-entropy over class logits."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, logsumexp(f) - f_y."""
        return torch.logsumexp(outputs, -1) - self._of_label(outputs, y)

    def encode(self, y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        """onehot(y)."""
        return F.one_hot(y, outputs).to(dtype)

    def residual(self, outputs: Tensor, encoded: Tensor, dim: int = -1, out: Tensor | None = None) -> Tensor:
        """softmax(f) - onehot(y)."""
        return torch.softmax(outputs, dim, out=out).sub_(encoded)

    def output_gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """softmax(f) - onehot(y)."""
        return self.residual(outputs, self.encode(y, outputs.shape[-1], outputs.dtype))

    def curvature_factor(self, outputs: Tensor, y: Tensor, k: int) -> Tensor:
        """√p_k (e_k - p), since diag(p) - p pᵀ = Σ_k p_k (e_k - p)(e_k - p)ᵀ."""
        p = torch.softmax(outputs, -1)
        unit = torch.zeros_like(p)
        unit[..., k] = 1
        return p[..., k : k + 1].sqrt() * (unit - p)

    def curved(self, outputs: Tensor, directions: Tensor, dim: int = -1) -> Tensor:
        """(diag(p) - p pᵀ) u = p ∘ (u - p·u)."""
        p = torch.softmax(outputs, dim)
        return p * (directions - (p * directions).sum(dim, keepdim=True))

    def margin(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log p_y / (1 - p_y), from logits and without cancellation (Park et al. 2023, eq. 5)."""
        others = outputs.masked_fill(F.one_hot(y, outputs.shape[-1]).bool(), -torch.inf)
        return self._of_label(outputs, y) - torch.logsumexp(others, -1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Index of the largest logit."""
        return outputs.argmax(-1)

    @staticmethod
    def _of_label(outputs: Tensor, y: Tensor) -> Tensor:
        return outputs.gather(-1, y.expand(outputs.shape[:-1]).unsqueeze(-1)).squeeze(-1)


class Regression:
    """Half squared error on one output."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """(f - y)² / 2."""
        return 0.5 * (outputs.squeeze(-1) - y).square()

    def encode(self, y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        """The target itself."""
        return y.to(dtype).unsqueeze(-1)

    def residual(self, outputs: Tensor, encoded: Tensor, dim: int = -1, out: Tensor | None = None) -> Tensor:
        """F - y."""
        return torch.sub(outputs, encoded, out=out)

    def output_gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """F - y."""
        return self.residual(outputs, self.encode(y, 1, outputs.dtype))

    def curvature_factor(self, outputs: Tensor, y: Tensor, k: int) -> Tensor:
        """One: the risk's second derivative."""
        return torch.ones_like(outputs)

    def curved(self, outputs: Tensor, directions: Tensor, dim: int = -1) -> Tensor:
        """Themselves: the risk's second derivative is one."""
        return directions

    def margin(self, outputs: Tensor, y: Tensor) -> Tensor:
        """-|f - y|."""
        return -(outputs.squeeze(-1) - y).abs()

    def predict(self, outputs: Tensor) -> Tensor:
        """The output."""
        return outputs.squeeze(-1)


class Density:
    """The model returns the risk itself: minus the logarithm of an instance's density, or of a bound of it."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The output."""
        return outputs.squeeze(-1)

    def encode(self, y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        """Nothing: labels are not learned from."""
        return torch.zeros(len(y), outputs, dtype=dtype, device=y.device)

    def residual(self, outputs: Tensor, encoded: Tensor, dim: int = -1, out: Tensor | None = None) -> Tensor:
        """One."""
        return torch.ones_like(outputs) if out is None else out.fill_(1)

    def output_gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(outputs)

    def curvature_factor(self, outputs: Tensor, y: Tensor, k: int) -> Tensor:
        """Refused: see ``curved``."""
        raise IncompatibleError(NO_OUTPUT_CURVATURE)

    def curved(self, outputs: Tensor, directions: Tensor, dim: int = -1) -> Tensor:
        """Refused: a risk is linear in itself, so that its Gauss-Newton matrix would be zero.

        Raises:
            IncompatibleError: always.
        """
        raise IncompatibleError(NO_OUTPUT_CURVATURE)

    def margin(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Minus the risk."""
        return -outputs.squeeze(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Minus the risk: the logarithm of the density, or its bound."""
        return -outputs.squeeze(-1)


NO_OUTPUT_CURVATURE = (
    "a density model's output is its risk, which has no Gauss-Newton matrix or Fisher matrix of its outputs; "
    "use estimator.curvature=empirical_fisher, or hessian where the solver takes it"
)
TASKS: dict[TaskName, type[Task]] = {
    "classification": Classification,
    "regression": Regression,
    "density": Density,
}


def task_for(name: TaskName) -> Task:
    """The task of a dataset."""
    return TASKS[name]()
