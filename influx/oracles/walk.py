"""The recorded training once more with torch's own optimizers, and its derivative by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from influx.learners.torch.optimizers import SGD, Adam, AdamW
from influx.oracles import plain
from influx.oracles.plain import Array
from influx.oracles.retraining import torch_optimizer
from influx.oracles.toys import Toy


@dataclass(frozen=True)
class Step:
    """One step, and the model that it starts from in eval mode."""

    rows: list[int]
    lr: float
    module: nn.Module
    clip: float  # factor of the gradient
    second: Array  # Adam's second moment after the step (p,), otherwise empty


def flat(module: nn.Module) -> Array:
    """Parameters ``(p,)``."""
    return torch.cat([p.detach().flatten() for p in module.parameters()]).numpy()


def decay(toy: Toy) -> Array:
    """Weight decay of each parameter ``(p,)``."""
    optimizer = toy.learner.optimizer
    decayed = [optimizer.decay_on == "all" or p.ndim > 1 for p in toy.module().parameters()]
    sizes = [p.numel() for p in toy.module().parameters()]
    return np.repeat(np.where(decayed, optimizer.weight_decay, 0.0), sizes)


def walk(toy: Toy, weights: Array | None = None) -> tuple[list[Step], nn.Module]:
    """Every step of the training with instance weights ``(n,)``, and the model that it ends with."""
    module, record, limit = toy.module(0).train(), toy.trajectory(), toy.learner.training.clip_norm
    optimizer = torch_optimizer(toy.learner.optimizer, module)
    (x, y), steps = toy.tensors(toy.train), []
    w = torch.from_numpy(np.ones(len(x)) if weights is None else weights)
    row_of = {int(identity): row for row, identity in enumerate(toy.train.ids)}
    for step, lr in enumerate(record["lr"][:, 0]):
        batch = record["batch_ids"][record["batch_offsets"][step] : record["batch_offsets"][step + 1]]
        rows, before, clip = [row_of[int(identity)] for identity in batch], copy.deepcopy(module).eval(), 1.0
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        optimizer.zero_grad()
        ((plain.risks(toy.task, module(x[rows]), y[rows]) * w[rows]).sum() / len(rows)).backward()
        if limit is not None:
            norm = float(nn.utils.clip_grad_norm_(module.parameters(), limit))
            clip = min(1.0, limit / (norm + 1e-6))
        optimizer.step()
        moments = [optimizer.state[p].get("exp_avg_sq", torch.empty(0)).flatten() for p in module.parameters()]
        steps.append(Step(rows, float(lr), before, clip, torch.cat(moments).numpy().copy()))
    return steps, module.eval()


def differences(toy: Toy, h: float = 1e-4) -> tuple[Array, Array]:
    """Minus the derivatives of test losses ``(n, m)`` and own losses ``(n,)`` in instance weights, by retraining."""
    values, own, ones = [], [], np.ones(len(toy.train))
    for i, unit in enumerate(np.eye(len(toy.train))):
        up, down = (walk(toy, ones + s * h * unit)[1] for s in (1, -1))
        values.append((plain.losses(toy, down, toy.test) - plain.losses(toy, up, toy.test)) / (2 * h))
        own.append((plain.losses(toy, down, toy.train) - plain.losses(toy, up, toy.train))[i] / (2 * h))
    return np.stack(values), np.array(own)


def hessians(toy: Toy, module: nn.Module, rows: list[int]) -> Array:
    """Hessian ``(b, p, p)`` of each instance's risk by ``torch.autograd.functional``."""
    x, y = toy.tensors(toy.train)
    shapes = {name: p.shape for name, p in module.named_parameters()}

    def risk(theta: Tensor, row: int) -> Tensor:
        pieces = theta.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return plain.risks(toy.task, functional_call(module, named, (x[row : row + 1],)), y[row : row + 1])[0]

    theta = torch.from_numpy(flat(module))
    found = [torch.autograd.functional.hessian(lambda t, row=row: risk(t, row), theta) for row in rows]
    return np.stack([h.numpy() for h in found])


def tangents(toy: Toy, curvature: bool = True, leave_out: bool = False, start: int = 0) -> Array:
    """dθ_T/dw_i ``(n, p)`` for all i, each optimizer's step differentiated by hand.

    Without ``curvature`` gradients do not depend on parameters; with ``leave_out`` i's own curvature is taken out.
    Steps before ``start`` are taken as they were.
    """
    optimizer, wd, limit = toy.learner.optimizer, decay(toy), toy.learner.training.clip_norm
    h = first = second = np.zeros((len(toy.train), len(wd)))
    m = v = np.zeros(len(wd))
    for t, step in enumerate(walk(toy)[0]):
        theta, grads = flat(step.module), plain.gradients(toy, step.module, toy.train)[step.rows]
        g, dg, size = grads.mean(0), np.zeros_like(h), len(step.rows)
        if curvature and t >= start:
            curved = hessians(toy, step.module, step.rows)
            dg = h @ curved.mean(0)
            if leave_out:
                for row, own in zip(step.rows, curved, strict=True):
                    dg[row] -= own @ h[row] / size
        dg[step.rows] += grads / size
        if limit is not None and step.clip < 1:
            norm = float(np.linalg.norm(g))
            dg = step.clip * dg - np.outer(dg @ g, g) * limit / (norm + 1e-6) ** 2 / norm
            g = step.clip * g
        if isinstance(optimizer, SGD | Adam):
            g, dg = g + wd * theta, dg + wd * h
        if isinstance(optimizer, SGD):
            first = (
                optimizer.momentum * first + (1 if t == 0 or not optimizer.momentum else 1 - optimizer.dampening) * dg
            )
            h = h - step.lr * (dg + optimizer.momentum * first if optimizer.nesterov else first)
        else:
            assert isinstance(optimizer, Adam | AdamW)
            b1, b2, c1, c2 = (
                optimizer.beta1,
                optimizer.beta2,
                1 - optimizer.beta1 ** (t + 1),
                1 - optimizer.beta2 ** (t + 1),
            )
            m, first = b1 * m + (1 - b1) * g, b1 * first + (1 - b1) * dg
            v, second = b2 * v + (1 - b2) * g * g, b2 * second + 2 * (1 - b2) * g * dg
            root = np.sqrt(v / c2)
            inverse = 1 / (root + optimizer.eps)
            bend = np.divide(second / c2, 2 * root, out=np.zeros_like(second), where=root > 0) * inverse**2
            kept = 1 - step.lr * wd if isinstance(optimizer, AdamW) else 1.0
            h = kept * h - step.lr / c1 * (first * inverse - m * bend)
        if t < start:
            h = first = second = np.zeros_like(h)
    return h


def shares(toy: Toy) -> tuple[Array, Array, Array]:
    """Each instance's share of the first-order falls ``(n, m)``, on itself ``(n,)``, and weight decay's ``(m,)``.

    Forwards, with an optimizer memory for every instance and one, the last, for weight decay.
    """
    optimizer, wd, n = toy.learner.optimizer, decay(toy), len(toy.train)
    memory, values, own = np.zeros((n + 1, len(wd))), np.zeros((n + 1, len(toy.test))), np.zeros(n)
    for t, step in enumerate(walk(toy)[0]):
        theta, mine = flat(step.module), plain.gradients(toy, step.module, toy.train)
        fed = np.zeros_like(memory)
        fed[step.rows] = step.clip * mine[step.rows] / len(step.rows)
        fed[n] = 0 if isinstance(optimizer, AdamW) else wd * theta
        if isinstance(optimizer, SGD):
            fresh = 1 if t == 0 or not optimizer.momentum else 1 - optimizer.dampening
            memory = optimizer.momentum * memory + fresh * fed
            moves = -step.lr * (fed + optimizer.momentum * memory if optimizer.nesterov else memory)
        else:
            assert isinstance(optimizer, Adam | AdamW)
            memory = optimizer.beta1 * memory + (1 - optimizer.beta1) * fed
            scale = np.sqrt(step.second / (1 - optimizer.beta2 ** (t + 1))) + optimizer.eps
            moves = -step.lr * memory / (1 - optimizer.beta1 ** (t + 1)) / scale
            if isinstance(optimizer, AdamW):
                moves[n] = -step.lr * wd * theta
        values -= moves @ plain.gradients(toy, step.module, toy.test).T
        own -= (moves[:n] * mine).sum(1)
    return values[:n], own, values[n]
