"""Scales and warnings: what a result may not claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from influx.engines.weighting import weighted_checkpoints
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD, Adam, AdamW, Optimizer
from influx.models.linear import Linear
from influx.oracles import plain, toys
from influx.oracles.toys import Toy, estimator_named
from influx.problem import Checkpoint

UNLIKE: list[tuple[Optimizer, dict[str, Any], str]] = [
    (SGD(lr=0.1, momentum=0.5), {}, "momentum 0.5"),
    (Adam(lr=0.01), {}, "Adam"),
    (AdamW(lr=0.01), {}, "AdamW"),
    (SGD(lr=0.1), {"clip_norm": 0.1}, "gradient clipping"),
]


def estimated(toy: Toy, name: str, **settings: Any) -> tuple[Influence, list[str]]:
    estimator = estimator_named(name, settings)
    run = toy.run(estimator, name)
    return estimator.estimate(run), run.warnings


@pytest.mark.parametrize("name", ["tracincp", "tracin_last"])
def test_calibrated_weights_of_plain_sgd_are_in_loss_units(name: str, tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), Linear(), SGD(lr=0.1, weight_decay=0.01))
    influence, warnings = estimated(toy, name, weight="calibrated")
    assert (influence.scale, warnings) == ("loss", [])
    assert estimated(toy, name, weight="paper")[0].scale == "rank"


@pytest.mark.parametrize("name", ["tracincp", "tracin_last", "gas"])
@pytest.mark.parametrize(("optimizer", "settings", "why"), UNLIKE)
def test_steps_unlike_sgd_give_ranks_and_a_warning(
    name: str, optimizer: Optimizer, settings: dict[str, Any], why: str, tmp_path: Path
) -> None:
    toy = toys.train(tmp_path, toys.table(), Linear(), optimizer, epochs=1, **settings)
    influence, warnings = estimated(toy, name, weight="calibrated")
    assert influence.scale == "rank"
    assert [why in warning for warning in warnings] == [True]


def test_influence_functions_away_from_a_minimum_say_so(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), Linear(), SGD(lr=0.1, weight_decay=0.05), epochs=1)
    influence, warnings = estimated(toy, "if_exact")
    assert ["not at a minimum" in warning for warning in warnings] == [True]
    gradient = plain.gradients(toy, toy.fitted.model(), toy.train).mean(0)
    theta = torch.cat([p.detach().flatten() for p in toy.fitted.model().parameters()]).numpy()
    assert influence.report["gradient_norm"] == pytest.approx(np.linalg.norm(gradient + 0.05 * theta), rel=1e-9)


def test_influence_functions_at_a_minimum_do_not_warn(tmp_path: Path) -> None:
    toy = toys.converged(tmp_path, toys.table(), Linear(), weight_decay=0.05)
    influence, warnings = estimated(toy, "if_exact")
    assert warnings == []
    assert influence.report["gradient_norm"] < 1e-6


@pytest.mark.parametrize(("weight_decay", "expected"), [(0.1, True), (0.0, False)])
def test_influence_functions_warn_of_decoupled_weight_decay(
    weight_decay: float, expected: bool, tmp_path: Path
) -> None:
    toy = toys.train(tmp_path, toys.table(), Linear(), AdamW(lr=0.01, weight_decay=weight_decay))
    _, warnings = estimated(toy, "if_exact", damping=0.1)
    assert any("decoupled" in warning for warning in warnings) is expected


@pytest.mark.parametrize(("lr_at", "step"), [("next", 4), ("prev", 6), ("segment_mean", 4)])
def test_one_checkpoint_is_the_last_usable_one(lr_at: Literal["next", "prev", "segment_mean"], step: int) -> None:
    rates = np.array([6.0, 5, 4, 3, 2, 1])
    saved = [Checkpoint(step=s, lr=(0.0,), path=Path()) for s in (0, 2, 4, 6)]
    ((checkpoint, weight),) = weighted_checkpoints(saved, rates, 10, 1, lr_at, "paper")
    assert checkpoint.step == step
    assert weight == {"next": 2.0, "prev": 1.0, "segment_mean": 1.5}[lr_at]
