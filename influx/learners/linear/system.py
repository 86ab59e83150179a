"""The objective of a linear model, its gradient and its Hessian, for many instance weightings at once.

Objective: Σ_i v_i ℓ_i(θ) + Σ_j penalty_j θ_j² / 2, where v are instance weights divided by their normaliser. Classes
are coded against the last one: K = classes - 1 outputs, which softmax completes with a 0. Of all class weights with
given differences the penalty prefers those that sum to 0 over classes, which makes the penalty matrix of the
differences I - 11ᵀ/classes (``coupling``). Arrays are (models, K, n) and (models, K, q): instances or inputs last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from influx.problem import Outcomes

OUTER_BYTES = 32 << 20  # products of inputs that are held at once


@dataclass(frozen=True, kw_only=True)
class System:
    """Instances and the penalty.

    Attributes:
        x: ``(n, q)`` inputs, the last one 1 when there is an intercept.
        target: ``(K, n)`` values, or class indicators without the last class.
        penalty: ``(q,)`` weight decay of every input.
        logistic: softmax cross-entropy instead of half the squared error.
    """

    x: Tensor
    target: Tensor
    penalty: Tensor
    logistic: bool

    @property
    def size(self) -> int:
        """Free parameters, K q."""
        return len(self.target) * self.x.shape[1]

    @cached_property
    def coupling(self) -> Tensor:
        """``(K, K)`` penalty matrix of differences to the last class; 1 for regression."""
        outputs = len(self.target)
        eye = torch.eye(outputs, dtype=self.x.dtype)
        return eye - 1 / (outputs + 1) if self.logistic else eye

    def means(self, outputs: Tensor) -> Tensor:
        """Predicted values, or probabilities of all classes but the last."""
        return probabilities(outputs) if self.logistic else outputs

    def penalised(self, theta: Tensor) -> Tensor:
        """Gradient ``(models, K, q)`` of the penalty."""
        found: Tensor = self.coupling @ theta * self.penalty
        return found

    def gradient(self, v: Tensor, means: Tensor, theta: Tensor) -> Tensor:
        """Gradient ``(models, K, q)`` of the objective."""
        return ((means - self.target) * v[:, None]) @ self.x + self.penalised(theta)

    def curvature(self, means: Tensor) -> Tensor:
        """``(models, K (K + 1) / 2, n)`` second derivatives of the risks, pairs as in ``tril_indices``."""
        if not self.logistic:
            return torch.ones_like(means)
        if means.shape[1] == 1:
            return means * (1 - means)
        a, b = torch.tril_indices(means.shape[1], means.shape[1])
        found: Tensor = means[:, a] * ((a == b).to(means)[:, None] - means[:, b])
        return found

    def curved(self, v: Tensor, means: Tensor, direction: Tensor) -> Tensor:
        """Hessian of the objective times ``direction`` (models, K, q)."""
        moved = direction @ self.x.T
        if self.logistic:
            moved = means * (moved - (means * moved).sum(1, keepdim=True))
        return (moved * v[:, None]) @ self.x + self.penalised(direction)

    def hessian(self, v: Tensor, means: Tensor) -> Tensor:
        """``(models, K q, K q)`` Hessian of the objective, outputs before inputs."""
        outputs, inputs = len(self.target), self.x.shape[1]
        packed = self._products(self.curvature(means) * v[:, None])
        i, j = torch.tril_indices(inputs, inputs)
        place = torch.empty(inputs, inputs, dtype=torch.int64)
        place[i, j] = place[j, i] = torch.arange(len(i))
        found = torch.empty(len(v), outputs, inputs, outputs, inputs, dtype=v.dtype)
        penalty = torch.diag(self.penalty)
        for pair, (a, b) in enumerate(torch.tril_indices(outputs, outputs).T.tolist()):
            block = packed[:, pair, place] + self.coupling[a, b] * penalty
            found[:, a, :, b] = block
            if a != b:
                found[:, b, :, a] = block
        return found.view(len(v), self.size, self.size)

    def single_hessian(self, v: Tensor, means: Tensor) -> Tensor:
        """``(K q, K q)`` lower triangle of one model's Hessian in single precision; ``v`` (n,), ``means`` (K, n)."""
        outputs, inputs = len(self.target), self.x.shape[1]
        rows = torch.nonzero(v).flatten()
        x, v, means = self._single[rows], v[rows].float(), means[:, rows].float()
        found, penalty = torch.zeros(outputs, inputs, outputs, inputs), torch.diag(self.penalty).float()
        for a, b in torch.tril_indices(outputs, outputs).T.tolist():
            curvature = v * means[a] * (float(a == b) - means[b]) if self.logistic else v
            found[a, :, b] = (x * curvature[:, None]).T @ x + float(self.coupling[a, b]) * penalty
        return found.view(self.size, self.size)

    @cached_property
    def _single(self) -> Tensor:
        """The inputs in single precision."""
        return self.x.float()

    def _products(self, weights: Tensor) -> Tensor:
        """Σ_i weights_i x_i x_iᵀ ``(models, pairs, q (q + 1) / 2)``, entries as in ``tril_indices``."""
        if self._outer is not None:
            return weights @ self._outer
        step = max(1, OUTER_BYTES // (4 * self.x.shape[1] * (self.x.shape[1] + 1)))
        parts = zip(self.x.split(step), weights.split(step, dim=-1), strict=True)
        found: Tensor = reduce(torch.add, (w @ outer(x) for x, w in parts))
        return found

    @cached_property
    def _outer(self) -> Tensor | None:
        """All products of inputs where they are small enough to keep."""
        n, inputs = self.x.shape
        return outer(self.x) if 4 * n * inputs * (inputs + 1) <= OUTER_BYTES else None

    def outcomes(self, outputs: Tensor) -> Outcomes:
        """Loss, margin and prediction ``(models, n)`` from outputs ``(models, K, n)``."""
        if not self.logistic:
            off = outputs[:, 0] - self.target[0]
            return _outcomes(0.5 * off.square(), -off.abs(), outputs[:, 0])
        if len(self.target) == 1:
            margin = outputs[:, 0] * (2 * self.target[0] - 1)
            return _outcomes(F.softplus(-margin, threshold=40.0), margin, (outputs[:, 0] < 0))
        logits = torch.cat([outputs, torch.zeros_like(outputs[:, :1])], 1)
        right = torch.cat([self.target, 1 - self.target.sum(0, keepdim=True)]).bool()
        label = right.long().argmax(0).expand(len(logits), 1, -1)
        own = logits.gather(1, label).squeeze(1)
        margin = own - torch.logsumexp(logits.masked_fill(right, -torch.inf), 1)
        return _outcomes(F.softplus(-margin, threshold=40.0), margin, logits.argmax(1))


def outer(x: Tensor) -> Tensor:
    """``(n, q (q + 1) / 2)`` products of an instance's inputs."""
    i, j = torch.tril_indices(x.shape[1], x.shape[1])
    return x[:, i] * x[:, j]


def probabilities(outputs: Tensor) -> Tensor:
    """Softmax over dimension 1 of outputs and a last 0, without that last class."""
    if outputs.shape[1] == 1:
        return torch.sigmoid(outputs)
    top = outputs.amax(1, keepdim=True).clamp(min=0)
    raised = torch.exp(outputs - top)
    return raised / (raised.sum(1, keepdim=True) + torch.exp(-top))


def _outcomes(loss: Tensor, margin: Tensor, prediction: Tensor) -> Outcomes:
    return Outcomes(loss=loss.numpy(), margin=margin.float().numpy(), prediction=prediction.float().numpy())
