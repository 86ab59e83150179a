"""Learning rates, batches and saved steps against torch's schedulers and counting."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from influx.errors import ConfigError
from influx.learners.torch.training import Training

TOTAL = 12


def rates(training: Training) -> list[float]:
    return [training.learning_rate(0.3, step, TOTAL) for step in range(TOTAL)]


def torch_rates(make: object, **settings: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler, found = make(optimizer, **settings), []  # type: ignore[operator]
    for _ in range(TOTAL):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_constant_is_constant() -> None:
    assert rates(Training()) == [0.3] * TOTAL


def test_cosine_is_that_of_torch() -> None:
    expected = torch_rates(lr_scheduler.CosineAnnealingLR, T_max=TOTAL, eta_min=0.03)
    assert rates(Training(schedule="cosine", final_fraction=0.1)) == pytest.approx(expected, rel=1e-12)


def test_step_is_that_of_torch() -> None:
    expected = torch_rates(lr_scheduler.StepLR, step_size=5, gamma=0.5)
    assert rates(Training(schedule="step", decay_every=5, decay_factor=0.5)) == pytest.approx(expected, rel=1e-12)


def test_step_decays_twice_unless_told_otherwise() -> None:
    assert rates(Training(schedule="step")) == pytest.approx([0.3] * 4 + [0.03] * 4 + [0.003] * 4)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warmup_rises_in_equal_steps_and_then_the_schedule_begins(schedule: str) -> None:
    found = rates(Training(schedule=schedule, warmup_steps=3))  # type: ignore[arg-type]
    assert found[:4] == pytest.approx([0.1, 0.2, 0.3, 0.3])
    assert all(a >= b for a, b in pairwise(found[3:]))


@pytest.mark.parametrize("drop_last", [True, False])
def test_every_epoch_shows_every_instance_once(drop_last: bool) -> None:
    training = Training(epochs=3, batch_size=4, drop_last=drop_last)
    batches = training.batches(10, seed=0, order=0)
    used = 8 if drop_last else 10
    assert len(batches) == training.steps(10) == (6 if drop_last else 9)
    assert [len(batches[step]) for step in range(len(batches))] == ([4, 4] if drop_last else [4, 4, 2]) * 3
    for epoch in batches.rows.reshape(3, used):
        assert len(set(epoch.tolist())) == used and set(epoch.tolist()) <= set(range(10))


def test_batches_depend_on_seed_and_order_alone() -> None:
    training = Training(epochs=2, batch_size=4)
    first, again = training.batches(10, 0, 0).rows, training.batches(10, 0, 0).rows
    assert np.array_equal(first, again)
    assert not np.array_equal(first, training.batches(10, 0, 1).rows)
    assert not np.array_equal(first, training.batches(10, 1, 0).rows)


def test_drop_last_of_the_only_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.drop_last"):
        Training(batch_size=20, drop_last=True).steps(10)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [("even", [0, 4, 8, 12]), ("log", [0, 1, 3, 12]), ("every", list(range(13)))],
)
def test_first_and_last_step_are_always_saved(spacing: str, expected: list[int]) -> None:
    training = Training(checkpoints=3, checkpoint_spacing=spacing)  # type: ignore[arg-type]
    assert training.saved_steps(TOTAL) == expected


def test_every_fifth_step_is_saved_when_asked() -> None:
    assert Training(checkpoint_spacing="every", checkpoint_every=5).saved_steps(TOTAL) == [0, 5, 10, 12]
    with pytest.raises(ConfigError, match=r"training\.checkpoint_every"):
        Training(checkpoint_every=0)
