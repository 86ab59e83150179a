"""The functional optimizers take the same steps as ``torch.optim``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from influx.learners.torch.optimizers import SGD, Adam, AdamW, Optimizer
from influx.learners.torch.sequential import clip, decays
from influx.learners.torch.stacked import clip_each
from influx.oracles.retraining import torch_optimizer

OPTIMIZERS = [
    SGD(lr=0.1),
    SGD(lr=0.1, weight_decay=0.2),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    SGD(lr=0.1, momentum=0.8, nesterov=True),
    SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1, decay_on="weights"),
    Adam(lr=0.05),
    Adam(lr=0.05, beta1=0.5, beta2=0.9, eps=1e-3, weight_decay=0.3),
    AdamW(lr=0.05, weight_decay=0.3),
    AdamW(lr=0.05, weight_decay=0.3, decay_on="weights"),
]


def gradients_of(step: int, shapes: list[torch.Size]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_step_is_that_of_torch(optimizer: Optimizer) -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2).double()
    shapes = [p.shape for p in module.parameters()]
    params = [p.detach().clone() for p in module.parameters()]
    reference, slots = torch_optimizer(optimizer, module), optimizer.slots(params)
    for step in range(8):
        lr, grads = 0.1 / (step + 1), gradients_of(step, shapes)
        for group in reference.param_groups:
            group["lr"] = lr
        for p, g in zip(module.parameters(), grads, strict=True):
            p.grad = g.clone()
        reference.step()
        params, slots = optimizer.step(params, grads, slots, [lr] * 2, decays(optimizer, shapes), step + 1)
        for mine, theirs in zip(params, module.parameters(), strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_models_side_by_side_are_trained_as_if_alone(optimizer: Optimizer) -> None:
    shapes = [torch.Size((4, 2, 3)), torch.Size((4, 2))]
    params = gradients_of(99, shapes)
    alone = [[p[1].clone() for p in params], optimizer.slots([p[1] for p in params])]
    slots, decay = optimizer.slots(params), decays(optimizer, [shape[1:] for shape in shapes])
    for step in range(4):
        grads = gradients_of(step, shapes)
        params, slots = optimizer.step(params, grads, slots, [0.1] * 2, decay, step + 1)
        alone = list(optimizer.step(alone[0], [g[1] for g in grads], alone[1], [0.1] * 2, decay, step + 1))
    assert all(torch.equal(p[1], q) for p, q in zip(params, alone[0], strict=True))


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_is_that_of_torch(limit: float) -> None:
    shapes = [torch.Size((3, 2)), torch.Size((4,))]
    grads, params = gradients_of(0, shapes), [nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in shapes]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    total = nn.utils.clip_grad_norm_(params, limit)
    clipped, factor = clip(grads, limit)
    assert factor == pytest.approx(min(1.0, limit / (float(total) + 1e-6)), rel=1e-14)
    together = clip_each([torch.stack([g, 3 * g]) for g in grads], limit)
    for p, one, both in zip(params, clipped, together, strict=True):
        assert p.grad is not None
        assert torch.allclose(one, p.grad, rtol=1e-13, atol=0)
        assert torch.allclose(both[0], p.grad, rtol=1e-13, atol=0)
