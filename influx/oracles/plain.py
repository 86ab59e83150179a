"""Risks, gradients and refits, written out one instance at a time."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from influx.oracles.toys import Toy
from influx.problem import Split, TaskName

Array = NDArray[np.float64]


def risks(task: TaskName, outputs: Tensor, y: Tensor) -> Tensor:
    """Risk of each instance ``(n,)``: cross-entropy, half the squared error, or what a density model returns."""
    if task == "density":
        return outputs[:, 0]
    if task == "classification":
        return F.cross_entropy(outputs, y, reduction="none")
    return 0.5 * (outputs[:, 0] - y) ** 2


def losses(toy: Toy, module: nn.Module, split: Split) -> Array:
    """Risk of each instance ``(n,)`` under a module in eval mode."""
    x, y = toy.tensors(split)
    with torch.no_grad():
        return np.asarray(risks(toy.task, module(x), y).numpy())


def gradients(toy: Toy, module: nn.Module, split: Split, only: list[nn.Parameter] | None = None) -> Array:
    """Per-instance gradients ``(n, p)`` of the risk, one backward pass per instance."""
    x, y = toy.tensors(split)
    params = list(module.parameters()) if only is None else only
    rows = []
    for i in range(len(x)):
        risk = risks(toy.task, module(x[i : i + 1]), y[i : i + 1]).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(risk, params)]).numpy())
    return np.stack(rows)


def features(module: nn.Module, x: Tensor) -> Array:
    """Inputs ``(n, d)`` of the last layer of a sequential module."""
    assert isinstance(module, nn.Sequential)
    with torch.no_grad():
        return np.asarray(module[:-1](x).numpy())


def with_ones(x: NDArray[np.generic]) -> Array:
    """Rows with a last 1, the input of a bias."""
    return np.concatenate([np.asarray(x, np.float64), np.ones((len(x), 1))], 1)


def ridge(x: Array, y: Array, weights: Array, decay: float, divisor: float) -> Array:
    """Minimiser of Σ w_i (x_iᵀθ - y_i)² / (2 divisor) + decay/2 |θ|² by the normal equations."""
    normal = (x * weights[:, None]).T @ x / divisor + decay * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(normal, x.T @ (weights * y) / divisor), np.float64)


def softmax(logits: Array) -> Array:
    """Rows of class probabilities."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def softmax_hessian(x: Array, theta: Array, weights: Array, decay: float) -> Array:
    """Hessian ``(c q, c q)`` of the mean weighted cross-entropy plus decay/2 |θ|², for θ ``(c, q)``."""
    p = softmax(x @ theta.T)
    inner = p[:, :, None] * (np.eye(p.shape[1]) - p[:, None, :])  # (n, c, c)
    h = np.einsum("n,nab,ni,nj->aibj", weights / len(x), inner, x, x, optimize=True)
    return np.asarray(h.reshape(theta.size, theta.size) + decay * np.eye(theta.size))


def softmax_refit(x: Array, y: NDArray[np.int64], weights: Array, decay: float, start: Array) -> Array:
    """Minimiser ``(c, q)`` of Σ w_i L_i / n + decay/2 |θ|² by Newton's method, to rounding."""
    theta, target = start.copy(), np.eye(len(start))[y]
    for _ in range(50):
        gradient = ((softmax(x @ theta.T) - target) * weights[:, None]).T @ x / len(x) + decay * theta
        step = np.linalg.solve(softmax_hessian(x, theta, weights, decay), gradient.ravel())
        theta -= step.reshape(theta.shape)
        if np.abs(step).max() < 1e-12:
            return theta
    raise ArithmeticError("Newton's method did not converge on a toy problem")


def softmax_losses(x: Array, y: NDArray[np.int64], theta: Array) -> Array:
    """Cross-entropy ``(n,)``."""
    return np.asarray(-np.log(softmax(x @ theta.T)[np.arange(len(x)), y]))
