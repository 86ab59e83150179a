"""The mean gradient of instances, and how fast risks rise along a direction, without a gradient per instance."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.autograd import Free, gradients
from influx.engines.gradients import GradientsAt
from influx.problem import Split


def mean_gradient(at: GradientsAt, split: Split) -> list[Tensor]:
    """Gradient of the mean risk of a split, float64, one tensor per parameter: one backward pass per block."""
    params, step = list(at.parameters.values()), at.block_size(split)
    total = [torch.zeros_like(p, dtype=torch.float64) for p in params]
    for start in range(0, len(split), step):
        x, y = at.tensors(split.take(slice(start, start + step)))
        with torch.enable_grad():
            outputs = at.module(x)
        found = gradients(outputs, params, _seeds(at, outputs.detach(), y))
        for kept, g in zip(total, found, strict=True):
            if g is not None:
                kept += g
    return [kept / len(split) for kept in total]


@torch.no_grad()
def along(at: GradientsAt, split: Split, direction: list[Tensor]) -> NDArray[np.float64]:
    """``(n,)`` products of each instance's gradient with a direction, one tensor per parameter.

    One forward-mode pass per block; gradients are written out where an operation has no forward mode.
    """
    named = {name: v.to(p.dtype).flatten()[None] for (name, p), v in zip(at.parameters.items(), direction, strict=True)}
    step, found = at.block_size(split), []
    for start in range(0, len(split), step):
        x, y = at.tensors(split.take(slice(start, start + step)))
        seeds = _seeds(at, at.module(x), y)
        products = Free(at.module, list(named), x, seeds, True).along(named)
        if products is None:
            return _written(at, split, direction)
        found.append(products[:, 0].double())
    return torch.cat(found).cpu().numpy()


def _written(at: GradientsAt, split: Split, direction: list[Tensor]) -> NDArray[np.float64]:
    flat = torch.cat([v.flatten() for v in direction])
    return torch.cat([rows.flat().double() @ flat for _, rows in at.written(split)]).cpu().numpy()


def _seeds(at: GradientsAt, outputs: Tensor, y: Tensor) -> Tensor:
    """Gradients of risks with respect to outputs; in float64, since p - 1 of a fitted instance cancels."""
    exact = y.double() if y.is_floating_point() else y
    return at.task.output_gradient(outputs.double(), exact).to(outputs.dtype)
