"""Gradients of instances that the model has fitted to the last digit."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from influx.engines.gradients import GradientsAt
from influx.learners.torch.tasks import Classification


def test_the_gradient_of_a_fitted_instance_keeps_its_direction() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3))
    x, y = torch.randn(1, 4), torch.tensor([0])
    with torch.no_grad():
        net[0].bias += torch.tensor([18.0, 0.0, 0.0]) - net(x)[0] + torch.tensor([0.0, 0.7, 0.2])
    assert torch.softmax(net(x), 1)[0, 0] > 1 - 1e-7  # float32 does not see what is missing

    at = GradientsAt(net, Classification(), "all", lambda split: (x, y))
    found = at.rows(x, y).flat()[0].double()
    exact = copy.deepcopy(net).double()
    risk = F.cross_entropy(exact(x.double()), y)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(risk, list(exact.parameters()))])
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 1 - 1e-6
    assert (found - expected).norm() < 1e-3 * expected.norm()
