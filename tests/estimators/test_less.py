"""LESS: updates of the optimizer, zero gradients, and the sketch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import influx
from influx.engines.layers import Flat
from influx.engines.rows import Rows
from influx.engines.updates import Updates
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.optimizers import SGD, Adam, AdamW
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import estimator_named

OPTIMIZERS = {
    "sgd": (SGD(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "adam": (Adam(lr=0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
    "adamw": (AdamW(lr=0.1, weight_decay=0.0), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_the_optimizers_own(name: str) -> None:
    ours, make = OPTIMIZERS[name]
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(3, 6, dtype=torch.float64, generator=generator)
    history = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    expected, slots = [], {}
    for row in given:
        p = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        optimizer = make([p])
        for g in history:
            p.grad = g.clone()
            optimizer.step()
        state, before = optimizer.state[p], p.detach().clone()
        names = {"momentum": "momentum_buffer", "first": "exp_avg", "second": "exp_avg_sq"}
        slots = {ours_: state[theirs].clone()[None] for ours_, theirs in names.items() if theirs in state}
        p.grad = row.clone()
        optimizer.step()
        expected.append((before - p.detach()) / 0.1)
    updates = Updates(ours, slots, 5)
    found = updates(Rows([Flat(given)])).flat()
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(updates.numbers, torch.nn.functional.cosine_similarity(given, found))


def test_a_zero_gradient_has_no_direction() -> None:
    updates = Updates(Adam(lr=0.1), {"first": torch.zeros(1, 3), "second": torch.zeros(1, 3)}, 1)
    found = updates(Rows([Flat(torch.zeros(2, 3))])).flat()
    assert torch.equal(found, torch.zeros(2, 3)) and torch.equal(updates.numbers, torch.zeros(2))


def test_more_numbers_are_closer_to_the_cosines(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=5), Adam(lr=0.05))
    exact = toy.estimate("less", kind="none").values
    errors = [np.abs(toy.estimate("less", kind="rademacher", dim=dim).values - exact).max() for dim in (8, 4096)]
    assert errors[1] < 0.2 * errors[0]
    whole = toy.estimate("less", dim=sum(p.numel() for p in toy.module().parameters())).values
    np.testing.assert_allclose(whole, exact, atol=1e-13)  # one chunk of the sketch is a permutation with signs


def test_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"estimator\.dim must be at least 1, got 0"):
        estimator_named("less", {"dim": 0})


def test_checkpoints_without_moments_are_refused_before_work() -> None:
    net = torch.nn.Linear(2, 2)
    states = [net.state_dict(), net.state_dict()]
    data = (torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1]))
    given = {"estimator": "less", "loss": "cross_entropy", "checkpoints": states, "lrs": 0.1, "dim": 4}
    with pytest.raises(IncompatibleError, match="optimizer's moments"):
        influx.attribute(net, data, data, optimizer="adamw", **given)
