"""What a change of the final parameters does to risks: to first order, or by evaluating the moved models."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from influx.engines.gradients import Gradients
from influx.problem import Split

Effect = Literal["gradient", "moved"]
MOVED_BYTES = 64 << 20  # outputs and activations of moved models at a time


@torch.no_grad()
def effects(gradients: Gradients, changes: Tensor, split: Split, effect: Effect) -> Tensor:
    """``(K, n)`` change of each instance's risk when the final parameters change by ``changes`` (K, p); float64."""
    final = gradients.at(gradients.fitted.checkpoints[-1])
    if effect == "gradient":
        return torch.cat([(changes @ rows.flat().T).double() for _, rows in final.blocks(split)], 1).cpu()
    x, y = gradients.fitted.tensors(split)
    exact = y.double() if y.is_floating_point() else y
    task, before = gradients.fitted.task, gradients.fitted.task.loss(final.module(x).double(), exact)
    per_model = len(split) * final.activations(split) * x.element_size()
    found = []
    for part in changes.split(max(1, MOVED_BYTES // per_model)):
        outputs = vmap(lambda params: functional_call(final.module, params, (x,)))(_models(gradients, part))
        found.append(task.loss(outputs.double(), exact) - before)
    return torch.cat(found).cpu()


@torch.no_grad()
def own_effects(gradients: Gradients, changes: Tensor, split: Split, effect: Effect) -> Tensor:
    """``(K,)`` the same for the k-th change and the k-th of ``K`` instances."""
    final = gradients.at(gradients.fitted.checkpoints[-1])
    if effect == "gradient":
        parts = [(changes[rows] * found.flat()).sum(1).double() for rows, found in final.blocks(split)]
        return torch.cat(parts).cpu()
    x, y = gradients.fitted.tensors(split)
    exact = y.double() if y.is_floating_point() else y
    task, before = gradients.fitted.task, gradients.fitted.task.loss(final.module(x).double(), exact)
    size = max(1, MOVED_BYTES // (final.size * x.element_size()))
    outputs = [
        vmap(lambda params, one: functional_call(final.module, params, (one[None],))[0])(
            _models(gradients, part), inputs
        )
        for part, inputs in zip(changes.split(size), x.split(size), strict=True)
    ]
    return (task.loss(torch.cat(outputs).double(), exact) - before).cpu()


def _models(gradients: Gradients, changes: Tensor) -> dict[str, Tensor]:
    named = dict(gradients.fitted.model().named_parameters())
    parts = changes.split([p.numel() for p in named.values()], 1)
    return {name: p.detach() + part.reshape(-1, *p.shape) for (name, p), part in zip(named.items(), parts, strict=True)}
