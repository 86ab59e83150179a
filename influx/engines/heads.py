"""A net's last linear layer on cached features: its objective, its curvature and sums over pairs, without autograd.

The head maps features f to outputs Θ f, with Θ of shape (C, q); the bias is Θ's last column where f ends in a 1. With
features held fixed the mean risk is convex in Θ, and its curvature is exact: (1/n) Σ_i Λ_i ⊗ f_i f_iᵀ with Λ the
risk's second derivative with respect to the outputs, diag(p) - p pᵀ for classes. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import progress
from influx.engines.features import Features, head_of
from influx.engines.solved import DECOUPLED, NEARLY_STATIONARY
from influx.errors import IncompatibleError
from influx.learners.torch.inputs import to_tensors
from influx.learners.torch.optimizers import AdamW
from influx.learners.torch.sequential import decays
from influx.learners.torch.tasks import Classification, Task
from influx.planning import Prospect, Work
from influx.problem import Split
from influx.run import Run

PRODUCT_BYTES = 64 << 20  # intermediate numbers of one block of instances
HELD_BYTES = 512 << 20  # right-hand sides and solutions held at once: more test instances take more passes
HELD = 8  # arrays of that shape: right-hand sides, solutions and what solving takes
COMPARED = 64  # instances on which features times weights are held against the model's own outputs


@dataclass(frozen=True)
class Objective:
    """(1/n) Σ_i ℓ(Θ f_i, t_i) + ½ Σ_k penalty_k |Θ_k|² over matrices Θ (C, q) with columns Θ_k.

    Attributes:
        task: the risk ℓ.
        f: ``(n, q)`` features.
        t: ``(n, C)`` targets in the space of outputs; rows of probabilities for classes.
        penalty: ``(q,)`` factor of each column's squared norm.
        pin: ``(q,)`` curvature added along equal entries of a column. Softmax does not change when all outputs grow
            alike, so that a column without penalty has no unique optimum; this picks one and moves no optimum.
    """

    task: Task
    f: Tensor
    t: Tensor
    penalty: Tensor
    pin: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """C and q."""
        return self.t.shape[1], self.f.shape[1]

    def outputs(self, theta: Tensor) -> Tensor:
        """``(n, C)`` outputs Θ f."""
        return self.f @ theta.T

    def residual(self, outputs: Tensor) -> Tensor:
        """``(n, C)`` derivatives of each risk with respect to the outputs."""
        return self.task.residual(outputs, self.t)

    def risk(self, outputs: Tensor) -> float:
        """Mean risk, without the penalty."""
        if is_softmax(self.task):
            return float((torch.logsumexp(outputs, 1) - (self.t * outputs).sum(1)).mean())
        return 0.5 * float((outputs - self.t).square().sum(1).mean())

    def mean_gradient(self, outputs: Tensor) -> Tensor:
        """``(C, q)`` gradient of the mean risk, without the penalty."""
        return self.residual(outputs).T @ self.f / len(self.f)

    def gradient(self, theta: Tensor, outputs: Tensor) -> Tensor:
        """``(C, q)`` gradient of the objective."""
        return self.mean_gradient(outputs) + self.penalty * theta

    def product(self, outputs: Tensor, v: Tensor) -> Tensor:
        """Curvature at some outputs times ``v`` ``(k, C, q)``, in blocks of instances."""
        k, (c, q) = len(v), self.shape
        size = max(1, PRODUCT_BYTES // (24 * k * c))
        flat, total = v.reshape(k * c, q), v.new_zeros(k * c, q)
        for f, z in zip(self.f.split(size), outputs.split(size), strict=True):
            moved = (f @ flat.T).view(len(f), k, c)
            curved = self.task.curved(z[:, None], moved)
            total.addmm_(curved.reshape(len(f), -1).T, f, alpha=1 / len(self.f))
        result = total.view_as(v) + self.penalty * v
        return result if self.pin is None else result + self.pin * v.mean(1, keepdim=True)

    def matrix(self, outputs: Tensor) -> Tensor:
        """``(C q, C q)`` curvature written out; C (C + 1) / 2 products of features, as it is symmetric."""
        c, q = self.shape
        h = self.f.new_zeros(c, q, c, q)
        eye = torch.eye(c, dtype=h.dtype, device=h.device)
        size = max(1, PRODUCT_BYTES // (16 * c * q))
        for f, z in zip(self.f.split(size), outputs.split(size), strict=True):
            for a in range(c):
                column = self.task.curved(z, eye[a].expand_as(z))[:, a:]  # (b, C - a): row a of every Λ
                weighted = (column[:, :, None] * f[:, None]).flatten(1)
                h[a, :, a:] += (f.T @ weighted).view(q, c - a, q) / len(self.f)
        for a in range(c):
            h[a + 1 :, :, a] = h[a, :, a + 1 :].permute(1, 2, 0)
        flat: Tensor = h.view(c * q, c * q)
        flat.diagonal().add_(self.penalty.repeat(c))
        if self.pin is not None:
            flat += torch.ones_like(eye).kron(torch.diag(self.pin)) / c
        return flat

    def mean_eigenvalue(self, outputs: Tensor) -> float:
        """Trace of the curvature over its size: one pass over the instances."""
        c, q = self.shape
        eye = torch.eye(c, dtype=outputs.dtype, device=outputs.device)
        traces = sum(self.task.curved(outputs, eye[a].expand_as(outputs))[:, a] for a in range(c))
        squares = self.f.square().sum(1)
        return float((torch.as_tensor(traces) * squares).mean() / (c * q) + self.penalty.mean())


@dataclass(frozen=True)
class Head:
    """The trained head and what it sees.

    Attributes:
        task: the risk.
        theta: ``(C, q)`` weights; the bias, where there is one, is the last column.
        decay: ``(q,)`` weight decay of each column.
        train: ``(n, q)`` training features, with a last 1 where there is a bias.
        test: ``(m, q)`` test features.
        y_train: ``(n,)`` training labels or targets.
        y_test: ``(m,)`` test labels or targets.
        biased: whether there is a bias.
        decoupled: the optimizer's weight decay is not the gradient of a penalty (AdamW).
    """

    task: Task
    theta: Tensor
    decay: Tensor
    train: Tensor
    test: Tensor
    y_train: Tensor
    y_test: Tensor
    biased: bool
    decoupled: bool

    @property
    def classes(self) -> int:
        """C, the width of the outputs."""
        return len(self.theta)

    @property
    def objective(self) -> Objective:
        """The training objective as a function of the head."""
        t = self.task.encode(self.y_train, self.classes, torch.float64)
        return Objective(self.task, self.train, t, self.decay)

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """Features of training and test instances without the 1 of the bias."""
        d = self.train.shape[1] - self.biased
        return self.train[:, :d], self.test[:, :d]

    def moved(self, theta: Tensor) -> Head:
        """The same with other weights."""
        return replace(self, theta=theta)

    def test_gradients(self, columns: slice) -> Tensor:
        """``(k, C, q)`` gradients of the risks of the test instances ``columns``."""
        f = self.test[columns]
        residual = self.task.residual(f @ self.theta.T, self.task.encode(self.y_test[columns], self.classes, f.dtype))
        return residual[:, :, None] * f[:, None]

    def pieces(self) -> Iterator[slice]:
        """Test instances, so many at a time that right-hand sides (k, C, q) and their solutions take 512 MB."""
        m, size = len(self.test), max(1, HELD_BYTES // (8 * HELD * self.theta.numel()))
        return (slice(start, min(start + size, m)) for start in range(0, m, size))

    def doubts(self, run: Run, residual: Tensor) -> float:
        """Norm of the objective's gradient; warns where the head is not at its minimum. ``residual`` is (n, C)."""
        slope = float((residual.T @ self.train / len(self.train) + self.decay * self.theta).norm())
        mean = float((residual.norm(dim=1) * self.train.norm(dim=1)).mean())
        if slope > NEARLY_STATIONARY * mean:
            run.warn(
                f"the last layer is not at a minimum of the training objective: its gradient has norm {slope:.2g}, an "
                f"instance's {mean:.2g} on average; influence functions describe a minimum"
            )
        if self.decoupled:
            run.warn(DECOUPLED)
        return slope


def head_at_end(features: Features, train: Split, test: Split) -> Head:
    """The last linear layer of a trained net, with the features that it sees.

    Raises:
        IncompatibleError: the net does not end in a linear layer, or that layer's weights are used elsewhere too or
            are not what multiplies the features.
    """
    fitted = features.net
    module = fitted.model()
    name, layer = head_of(module, fitted.recipe.x[:1].to(fitted.device))
    uses = [m for m in module.modules() for p in m.parameters(recurse=False) if p is layer.weight or p is layer.bias]
    if any(m is not layer for m in uses):
        raise IncompatibleError(
            f"the weights of the last layer ({name}) must be its own, another layer uses them too; choose a model "
            "without tied weights"
        )
    seen = [features.penultimate(split).double() for split in (train, test)]
    theta, shapes = layer.weight.detach().double(), [layer.weight.shape]
    biased = layer.bias is not None
    if biased:
        theta, shapes = torch.cat([theta, layer.bias.detach().double()[:, None]], 1), [*shapes, layer.bias.shape]
        seen = [with_ones(f) for f in seen]
    each = decays(fitted.recipe.optimizer, shapes)
    decay = theta.new_full((theta.shape[1],), each[0])
    decay[theta.shape[1] - biased :] = each[-1]
    few = train.take(slice(0, COMPARED))
    expected = fitted.outputs(module, few).double()
    found = seen[0][: len(few)] @ theta.T
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise IncompatibleError(
            f"the last layer ({name}) must multiply its input by its weights, {type(layer).__name__} does something "
            "else; choose a model that ends in torch.nn.Linear"
        )
    labels = [to_tensors(split, torch.float64, theta.device)[1] for split in (train, test)]
    optimizer = fitted.recipe.optimizer
    decoupled = isinstance(optimizer, AdamW) and optimizer.weight_decay > 0
    return Head(fitted.task, theta, decay, seen[0], seen[1], labels[0], labels[1], biased, decoupled)


def with_ones(f: Tensor) -> Tensor:
    """Rows with a last 1."""
    return torch.cat([f, f.new_ones(len(f), 1)], 1)


def is_softmax(task: Task) -> bool:
    """Whether outputs that all grow alike change nothing."""
    return isinstance(task, Classification)


def fill(values: NDArray[np.float64], residual: Tensor, f: Tensor, solved: Tensor, scale: float) -> None:
    """Add ``scale`` · (r_i ⊗ f_i)·X_j to ``values`` (n, m) for residuals (n, C), features (n, q), X (m, C, q)."""
    columns = solved.flatten(1).T.contiguous()
    size = max(1, PRODUCT_BYTES // (8 * (len(columns) + columns.shape[1])))
    with progress.task("influence", len(f)) as done:
        for start in range(0, len(f), size):
            part = slice(start, start + size)
            rows = (residual[part, :, None] * f[part, None]).flatten(1)
            values[part] += scale * (rows @ columns).cpu().numpy()
            done(len(rows))


def sizes(prospect: Prospect) -> tuple[int, int, int, int]:
    """Training instances n, test instances m, outputs C and inputs q of the head, bias included.

    Raises:
        IncompatibleError: the net does not end in a linear layer.
    """
    head, outputs = prospect.net.head, prospect.problem.data.n_outputs
    if not head:
        raise IncompatibleError("the model must end in a linear layer to use it as a head; choose another model")
    return len(prospect.train), len(prospect.test), outputs, max(head // outputs, 1)


def features_work(prospect: Prospect) -> Work:
    """Forward passes over both splits, and the features kept."""
    n, m, _, q = sizes(prospect)
    return Work(
        flops=2.0 * (n + m) * prospect.net.macs,
        bytes=8.0 * (n + m) * q,
        formula=f"({n} + {m}) forward passes",
    )
