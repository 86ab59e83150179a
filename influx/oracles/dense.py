"""Curvature matrices written out by torch's autograd."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from influx.oracles import plain
from influx.oracles.plain import Array
from influx.oracles.toys import Toy


def parameters(toy: Toy, step: int | None = None) -> Array:
    """``(p,)`` parameters at a checkpoint (default: the end of training)."""
    return np.concatenate([p.detach().numpy().ravel() for p in toy.module(step).parameters()])


def dense_matrix(toy: Toy, curvature: str, step: int | None = None) -> Array:
    """``(p, p)`` curvature of the mean objective at a checkpoint (default: the last), weight decay included.

    hessian by ``torch.autograd.functional``, ggn as Σ JᵀΛJ / n from Jacobians of outputs, fisher as the mean over all
    labels weighted by the model, empirical_fisher from the labels themselves.
    """
    module, (x, y) = toy.module(step), toy.tensors(toy.train)
    if curvature == "empirical_fisher":
        rows = plain.gradients(toy, module, toy.train)
        return rows.T @ rows / len(rows) + toy.learner.optimizer.weight_decay * np.eye(rows.shape[1])
    shapes = {name: p.shape for name, p in module.named_parameters()}
    flat = torch.from_numpy(parameters(toy, step))

    def outputs(theta: Tensor) -> Tensor:
        pieces = theta.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        result: Tensor = functional_call(module, named, (x,))
        return result

    decay = toy.learner.optimizer.weight_decay * torch.eye(len(flat), dtype=flat.dtype)
    if curvature == "hessian":
        h = torch.autograd.functional.hessian(lambda t: plain.risks(toy.task, outputs(t), y).mean(), flat)
        return np.asarray((h + decay).numpy())
    jacobian = torch.autograd.functional.jacobian(outputs, flat)  # (n, c, p)
    result = decay.clone()
    for rows, logits in zip(jacobian, outputs(flat), strict=True):
        p = torch.softmax(logits, 0)
        if curvature == "fisher":
            for label, unit in enumerate(torch.eye(len(p), dtype=p.dtype)):
                gradient = rows.T @ (p - unit)
                result += p[label] * torch.outer(gradient, gradient) / len(x)
            continue
        result += rows.T @ (torch.diag(p) - torch.outer(p, p)) @ rows / len(x)
    return np.asarray(result.detach().numpy())
