"""Functions of the curvature of a stretch of training, against the steps that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from influx.engines.segments import Diagonalised, Shrinkage, momentum_factor, stretches
from influx.errors import ConfigError, NumericalError
from influx.learners.torch.optimizers import SGD
from influx.problem import Checkpoint


def saved(*steps: int) -> list[Checkpoint]:
    return [Checkpoint(step=step, lr=(0.1,), path=Path()) for step in steps]


def matrix(p: int = 5) -> torch.Tensor:
    root = torch.randn(p, p, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return root @ root.T / p


def shift(made: Shrinkage, h: torch.Tensor, g: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Parameters that move along a constant gradient, by functions of the curvature."""
    d = Diagonalised.of(h)
    return d.apply(start, made.kept) + d.apply(g, made.gained)


@pytest.mark.parametrize("rates", [np.full(60, 0.05), 0.4 * np.random.default_rng(0).random(30), np.array([1.7])])
def test_the_discrete_filter_is_what_steps_do(rates: np.ndarray) -> None:
    h, g = matrix(), torch.ones(1, 5, dtype=torch.float64)
    moved = start = torch.arange(5.0, dtype=torch.float64)[None]
    for rate in rates:
        moved = moved - rate * (moved @ h) + rate * g
    assert torch.allclose(shift(Shrinkage(rates, "discrete"), h, g, start), moved, rtol=1e-12, atol=1e-12)


def test_the_exponential_filter_is_the_limit_of_many_small_steps() -> None:
    s = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    flow, steps = Shrinkage(np.full(100_000, 2e-5)), Shrinkage(np.full(100_000, 2e-5), "discrete")
    assert torch.allclose(flow.kept(s), steps.kept(s), atol=1e-4)
    assert torch.allclose(flow.gained(s), steps.gained(s), atol=1e-4)


@pytest.mark.parametrize("kind", ["exp", "discrete"])
def test_two_halves_are_the_whole(kind: str) -> None:
    h, g, start = matrix(), torch.ones(1, 5, dtype=torch.float64), torch.zeros(1, 5, dtype=torch.float64)
    half, whole = (Shrinkage(np.full(k, 0.1), kind) for k in (7, 14))  # type: ignore[arg-type]
    assert torch.allclose(shift(half, h, g, shift(half, h, g, start)), shift(whole, h, g, start), rtol=1e-13)


@pytest.mark.parametrize("kind", ["exp", "discrete"])
def test_limits(kind: str) -> None:
    given = np.full(1_000_000, 0.01), np.array([0.004, 0.006])
    much, little = (Shrinkage(rates, kind) for rates in given)  # type: ignore[arg-type]
    s = torch.tensor([0.1, 1.0], dtype=torch.float64)
    assert torch.allclose(much.gained(s), 1 / s, rtol=1e-14) and not much.kept(s).any()
    none = torch.tensor([0.0, 1e-300, 1e-18], dtype=torch.float64)
    assert torch.allclose(little.gained(none), torch.full((3,), 0.01, dtype=torch.float64), rtol=1e-14)


def test_steps_that_overshoot_without_bound_are_refused() -> None:
    with pytest.raises(NumericalError, match=r"estimator\.filter=exp"):
        Shrinkage(np.full(5000, 1.0), "discrete").kept(torch.tensor([3.0], dtype=torch.float64))


def test_negative_eigenvalues_count_as_none() -> None:
    d = Diagonalised.of(torch.diag(torch.tensor([-1.0, 2.0], dtype=torch.float64)))
    assert d.values.tolist() == [0.0, 2.0]


def test_every_step_is_in_one_stretch_and_its_checkpoints_are_spread() -> None:
    rates = np.arange(100.0)
    found = stretches(saved(*range(0, 101, 10)), rates, 3, 2)
    assert [(s.first, s.last) for s in found] == [(0, 33), (33, 67), (67, 100)]
    assert np.concatenate([s.rates for s in found]).tolist() == rates.tolist()
    assert [[c.step for c in s.checkpoints] for s in found] == [[10, 20], [40, 60], [80, 90]]
    every = stretches(saved(*range(0, 101, 10)), rates, 2, None)
    assert [[c.step for c in s.checkpoints] for s in every] == [[10, 20, 30, 40, 50], [60, 70, 80, 90, 100]]


def test_a_stretch_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"step 0 to 33.*training\.checkpoints to at least 3"):
        stretches(saved(0, 50, 100), np.ones(100), 3, 2)


def test_momentum_makes_steps_longer() -> None:
    assert momentum_factor(SGD(lr=0.1, dampening=0.2)) == 1
    optimizer, theta, slots = SGD(lr=0.1, momentum=0.5, dampening=0.2), [torch.zeros(1)], {"momentum": [torch.zeros(1)]}
    for step in range(2, 40):
        before = theta
        theta, slots = optimizer.step(theta, [torch.ones(1)], slots, [0.1], [0.0], step)
    assert float(before[0] - theta[0]) == pytest.approx(0.1 * momentum_factor(optimizer), rel=1e-5)
