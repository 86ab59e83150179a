"""Sums over plain steps and through an optimizer's memory: what they cover, and what they say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

import numpy as np
import pytest

from influx.engines.attribution import doubted_work, explained, lean, sampled
from influx.engines.gradients import Gradients
from influx.engines.path import Path
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD, Adam, AdamW, Optimizer
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.toys import Toy, estimator_named, table, train
from influx.oracles.walk import flat, walk
from influx.planning import Prospect

HEAVY = SGD(lr=0.05, momentum=0.9)


def trained(below: Folder, optimizer: Optimizer, **settings: Any) -> Toy:
    return train(below, table(), MLP(width=4), optimizer, **settings)


def told(toy: Toy, name: str, **settings: Any) -> tuple[Influence, str]:
    """An estimate and its warnings."""
    estimator = estimator_named(name, settings)
    run = toy.run(estimator, name)
    return estimator.estimate(run), " ".join(run.warnings)


def share(toy: Toy, clips: bool) -> float:
    """Of the parameter change, what plain steps explain."""
    steps, final = walk(toy)
    moves = np.diff([flat(module) for module in (*(step.module for step in steps), final)], axis=0)
    along = 0.0
    for step, move in zip(steps, moves, strict=True):
        mean = plain.gradients(toy, step.module, toy.train)[step.rows].mean(0)
        along -= step.lr * (step.clip if clips else 1.0) * float(mean @ move)
    return along / float((moves**2).sum())


@pytest.mark.parametrize("optimizer", [SGD(lr=0.3), HEAVY, Adam(lr=0.02), AdamW(lr=0.02)], ids=repr)
@pytest.mark.parametrize("clips", [True, False])
def test_the_share_that_plain_steps_explain(optimizer: Optimizer, clips: bool, tmp_path: Folder) -> None:
    toy = trained(tmp_path, optimizer, epochs=2, batch_size=5, clip_norm=0.4)
    found = explained(Path(toy.fitted), Gradients(toy.fitted, toy.train, toy.test), clips)
    assert found == pytest.approx(share(toy, clips), rel=1e-9)


def test_the_share_in_a_long_training_is_sampled(tmp_path: Folder) -> None:
    toy = trained(tmp_path, SGD(lr=0.003, momentum=0.9), epochs=40, batch_size=9, checkpoints=10)
    found = explained(Path(toy.fitted), Gradients(toy.fitted, toy.train, toy.test), True)
    assert found == pytest.approx(share(toy, True), abs=0.1) and 0.05 < found < 0.25


@pytest.mark.parametrize("name", ["tracin", "renorm_tracin", "tracincp", "gas"])
def test_plain_steps_are_doubted_where_the_optimizer_took_others(name: str, tmp_path: Folder) -> None:
    for optimizer, why, aware in (
        (HEAVY, "momentum 0.9", "tracin_momentum"),
        (Adam(lr=0.02), "Adam", "tracin_adam"),
    ):
        toy = trained(tmp_path, optimizer, epochs=4, batch_size=9)
        found, warned = told(toy, name)
        percent = f"{share(toy, True):.0%}"
        assert f"explains {percent} of the parameter change, the model was trained with {why}" in warned
        assert f"estimator={aware}" in warned
        assert found.report["explained"] == pytest.approx(share(toy, True), rel=1e-9)


@pytest.mark.parametrize("name", ["tracin", "renorm_tracin", "tracincp", "gas"])
def test_plain_steps_are_not_doubted_after_plain_sgd(name: str, tmp_path: Folder) -> None:
    found, warned = told(trained(tmp_path, SGD(lr=0.2, weight_decay=0.1)), name)
    assert "explains" not in warned and "explained" not in found.report


def test_recorded_clipping_is_part_of_a_sum_over_steps_but_not_over_checkpoints(tmp_path: Folder) -> None:
    toy = trained(tmp_path, SGD(lr=0.3), epochs=4, batch_size=9, clip_norm=0.2)
    assert "explains" not in told(toy, "tracin")[1]
    found, warned = told(toy, "tracincp")
    assert "gradient clipping" in warned and found.report["explained"] == pytest.approx(share(toy, False), rel=1e-9)


def test_the_memory_of_another_optimizer_is_refused(tmp_path: Folder) -> None:
    with pytest.raises(IncompatibleError, match="trained with AdamW; use estimator=tracin_adam"):
        trained(tmp_path, AdamW(lr=0.02)).estimate("tracin_momentum")
    with pytest.raises(IncompatibleError, match="trained with SGD; use estimator=tracin_momentum"):
        trained(tmp_path, HEAVY).estimate("tracin_adam")


@pytest.mark.parametrize("name", ["tracin", "renorm_tracin", "tracin_momentum", "tracin_ideal", "hydra_fast", "magic"])
def test_a_training_of_one_step(name: str, tmp_path: Folder) -> None:
    toy = trained(tmp_path, SGD(lr=0.2), epochs=1, batch_size=9)
    mine, theirs, ends = (
        plain.gradients(toy, toy.module(step), split) for step, split in ((0, toy.train), (0, toy.test), (1, toy.test))
    )
    first = 0.2 / 9 * mine @ theirs.T
    before, after = (plain.losses(toy, toy.module(step), toy.test) for step in (0, 1))
    expected = {
        "tracin": first,
        "tracin_momentum": first,
        "renorm_tracin": first / np.outer(np.linalg.norm(mine, axis=1), np.linalg.norm(theirs, axis=1)),
        "tracin_ideal": np.tile((before - after) / 9, (9, 1)),
        "hydra_fast": 0.2 / 9 * mine @ ends.T,
        "magic": 0.2 / 9 * mine @ ends.T,
    }[name]
    assert np.allclose(toy.estimate(name).values, expected, rtol=0, atol=1e-14)


def test_without_self_influence_the_rest_is_the_same(tmp_path: Folder) -> None:
    toy = trained(tmp_path, HEAVY)
    for name in ("tracin_momentum", "magic", "sgd_influence"):
        whole, rest = toy.estimate(name), toy.estimate(name, self_influence=False)
        assert whole.self_influence is not None and rest.self_influence is None
        assert np.array_equal(rest.values, whole.values)
        assert rest.tables["curves"]["self_influence"].isna().all()


def test_batches_of_several_share_a_step(tmp_path: Folder) -> None:
    ones, several = (trained(tmp_path, HEAVY, batch_size=size) for size in (1, 4))
    found, warned = told(ones, "tracin_ideal", batch_split="error")
    assert not warned and np.array_equal(found.values, ones.estimate("tracin_ideal").values)
    assert "batch of up to 4" in told(several, "tracin_ideal")[1]
    with pytest.raises(ConfigError, match=r"batch_split=error needs training\.batch_size=1.*batches of 4"):
        several.estimate("tracin_ideal", batch_split="error")


def test_a_kernel_of_scalars_for_sgd_alone(tmp_path: Folder) -> None:
    for optimizer, settings, wanted in (
        (SGD(lr=0.2), {}, {0.0}),
        (SGD(lr=0.2, momentum=0.9, weight_decay=0.1), {}, {0.1}),
        (SGD(lr=0.2, weight_decay=0.1, decay_on="weights"), {}, {0.0, 0.1}),
        (SGD(lr=0.2), {"clip_norm": 1.0}, None),
        (Adam(lr=0.02), {}, None),
    ):
        toy = trained(tmp_path, optimizer, **settings)
        kernels = lean(Path(toy.fitted))
        assert (kernels and kernels.keys()) == wanted
        assert toy.estimate("hydra_fast").report["lean"] is (wanted is not None)
    kernels = lean(Path(trained(tmp_path, SGD(lr=0.2), schedule="cosine").fitted))
    rates = trained(tmp_path, SGD(lr=0.2), schedule="cosine").trajectory()["lr"][:, 0]
    assert kernels is not None and np.allclose(kernels[0.0], rates, rtol=1e-15, atol=0)


def test_ignored_curvature_is_held_against_the_derivative(tmp_path: Folder) -> None:
    toy = trained(tmp_path, SGD(lr=0.5, momentum=0.9), epochs=8)
    found, warned = told(toy, "hydra_fast", audit=3)
    whole = toy.estimate("hydra", audit=0).values
    order = np.argsort(-np.linalg.norm(found.values, axis=1))
    fast, full = found.values[order[[0, 2, 4]]], whole[order[[0, 2, 4]]]
    error = np.linalg.norm(fast - full) / np.linalg.norm(full)
    assert found.report["audited"] == 3
    assert found.report["error_without_curvature"] == pytest.approx(error, rel=1e-9)
    assert f"differ from the full derivative by {error:.0%}" in warned
    calm, warned = told(trained(tmp_path, SGD(lr=0.01), epochs=1), "hydra_fast")
    assert not warned and calm.report["error_without_curvature"] < 0.1


@pytest.mark.parametrize(
    ("total", "saved", "expected"),
    [
        (8, [0, 4, 8], [(0, 8)]),  # no step twice
        (4, [0, 4], [(0, 4)]),
        (2, [0, 1, 2], [(0, 2)]),
        (6, [0, 1, 2, 3, 4, 5, 6], [(0, 6)]),
        (100, [0, 50, 100], [(0, 4), (50, 54)]),
        (40, [0, 12, 24, 36, 40], [(0, 4), (12, 16), (24, 28), (36, 40)]),
    ],
)
def test_every_sampled_step_is_gone_through_once(total: int, saved: list[int], expected: list[tuple[int, int]]) -> None:
    assert sampled(total, saved) == expected


@pytest.mark.parametrize(("optimizer", "passes"), [(SGD(lr=0.1), 0), (HEAVY, 2 * 8)])
def test_going_through_steps_again_is_planned(optimizer: Optimizer, passes: int, tmp_path: Folder) -> None:
    problem = trained(tmp_path, optimizer, epochs=8, batch_size=9, checkpoints=2).problem
    prospect = Prospect(problem=problem, who="estimator", shape=problem.learner.net_shape(problem))  # type: ignore[attr-defined]
    assert doubted_work(prospect).flops == passes * 9 * 6 * prospect.net.macs
    elsewhere = replace(prospect, shape=replace(prospect.net, visits=0))
    assert doubted_work(elsewhere).flops == 0
