"""One step pushed forwards and pulled backwards, and what is made of it over a whole training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from influx.engines import unrolled
from influx.engines.gradients import Gradients
from influx.engines.path import Path
from influx.engines.unroll import Motion, Steps
from influx.engines.unrolled import Growth, Unroller
from influx.errors import ConfigError
from influx.learners.torch.optimizers import SGD, Adam, AdamW
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.retraining import CASES, leave_one_out
from influx.oracles.toys import Toy, bundled, images, table, train
from influx.oracles.walk import tangents, walk


def case(below: Folder, label: str) -> Toy:
    optimizer, settings = CASES[label]
    return train(below, table(), MLP(width=4), optimizer, **settings)


def still_feature(below: Folder, optimizer: SGD | Adam | AdamW) -> Toy:
    """The first feature is zero in all instances: its weights have no gradient."""
    data = table()
    parts = {name: getattr(data, name) for name in ("train", "test")}
    zeroed = {name: replace(part, x=np.where(np.arange(3) == 0, 0, part.x)) for name, part in parts.items()}
    return train(below, replace(data, **zeroed), MLP(width=4, activation="relu"), optimizer)


def noise(like: list[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in like]


def inner(left: list[Tensor], right: list[Tensor]) -> Tensor:
    return torch.stack([(a * b).flatten(1).sum(1) for a, b in zip(left, right, strict=True)]).sum(0)


@pytest.mark.parametrize("label", CASES)
def test_pulling_back_is_the_transpose_of_pushing_forward(label: str, tmp_path: Folder) -> None:
    toy = case(tmp_path, label)
    steps = Steps(toy.fitted)
    for state in Path(toy.fitted).forward(0, 5):
        still = steps.still(3)

        def motion(seed: int, still: Motion = still) -> Motion:
            slots = {name: noise(tensors, seed + 1 + i) for i, (name, tensors) in enumerate(still.slots.items())}
            return Motion(noise(still.params, seed), slots)

        before, after, dgrads = motion(10), motion(20), noise(still.params, 30)
        gradient = [0.1 * g[0] for g in noise(still.params, 40)]
        pushed = steps.push(state, gradient, before, dgrads)
        pulled, of_gradient = steps.pull(state, gradient, after)
        one = inner(after.params, pushed.params) + inner(of_gradient, [0 * d for d in dgrads])
        other = inner(pulled.params, before.params) + inner(of_gradient, dgrads)
        for name in still.slots:
            one += inner(after.slots[name], pushed.slots[name])
            other += inner(pulled.slots[name], before.slots[name])
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", [Adam(lr=0.02, weight_decay=0.1), Adam(lr=0.02), AdamW(lr=0.02)], ids=repr)
def test_coordinates_that_never_moved_count_nothing(optimizer: Adam | AdamW, tmp_path: Folder) -> None:
    toy = still_feature(tmp_path, optimizer)
    mine, theirs = (plain.gradients(toy, toy.module(), split) for split in (toy.train, toy.test))
    for name in ("hydra", "magic", "hydra_fast"):
        found, moved = toy.estimate(name, audit=0), tangents(toy, curvature=name != "hydra_fast")
        assert found.self_influence is not None
        assert np.allclose(found.values, -moved @ theirs.T, rtol=0, atol=1e-12)
        assert np.allclose(found.self_influence, -(moved * mine).sum(1), rtol=0, atol=1e-12)
    assert np.isfinite(toy.estimate("tracin_adam").values).all()


def test_only_the_wanted_instances_are_tracked(tmp_path: Folder) -> None:
    toy = case(tmp_path, "adam, clipping")
    every, ids = toy.estimate("hydra"), toy.train.ids
    few = toy.estimate("hydra", indices=[int(ids[6]), int(ids[1])])
    assert few.self_influence is not None and every.self_influence is not None
    assert np.isnan(few.values).all(1).tolist() == [row not in (1, 6) for row in range(len(ids))]
    assert np.allclose(few.values[[1, 6]], every.values[[1, 6]], rtol=0, atol=1e-14)
    assert np.allclose(few.self_influence[[1, 6]], every.self_influence[[1, 6]], rtol=0, atol=1e-14)
    assert few.report["tracked"] == few.report["audited"] == 2
    for wrong in ([5], [int(ids[0]), -1], []):
        with pytest.raises(ConfigError, match=r"estimator\.indices must be ids of training instances"):
            toy.estimate("hydra", indices=wrong)


@pytest.mark.parametrize("name", ["hydra", "magic"])
def test_a_start_after_the_end_is_refused(name: str, tmp_path: Folder) -> None:
    toy = case(tmp_path, "sgd")
    with pytest.raises(ConfigError, match=r"estimator\.start must be below the 9 steps of the training, got 9"):
        toy.estimate(name, start=9)
    assert np.count_nonzero(toy.estimate(name, start=8, audit=0).values.any(1)) == 1  # a batch of one


def test_no_more_epochs_than_there_are(tmp_path: Folder) -> None:
    toy = case(tmp_path, "sgd")
    whole = toy.estimate("sgd_influence", audit=0).values
    assert np.array_equal(toy.estimate("sgd_influence", audit=0, epochs=7).values, whole)
    assert not np.allclose(toy.estimate("sgd_influence", audit=0, epochs=2).values, whole)
    with pytest.raises(ConfigError, match=r"estimator\.epochs must be at least 1 or null"):
        toy.estimate("sgd_influence", epochs=0)


def test_the_derivative_is_not_the_effect_of_removal_but_the_other_linearisation_is(tmp_path: Folder) -> None:
    toy = train(tmp_path, bundled("diabetes", 12, 4), Linear(), SGD(lr=0.1, momentum=0.9, weight_decay=0.05), epochs=4)
    removed = leave_one_out(toy)[0]

    def error(**settings: Any) -> float:
        return float(
            np.linalg.norm(toy.estimate("hydra", audit=0, **settings).values - removed) / np.linalg.norm(removed)
        )

    assert error(linearize_at="loo", test_loss="moved") < 1e-12
    assert error() > 0.1 and error(linearize_at="loo") > 0.01 and error(test_loss="moved") > 0.1


def test_curves_add_up_to_the_influence(tmp_path: Folder) -> None:
    toy = case(tmp_path, "adamw")
    for name in ("magic", "tracin", "tracin_adam", "tracin_ideal", "hydra_fast"):
        found = toy.estimate(name)
        curves = found.tables["curves"]
        means = curves[curves["test_id"].isna()]
        assert found.self_influence is not None
        for column, expected in (("influence", found.values.mean(1)), ("self_influence", found.self_influence)):
            total = means.groupby("train_id")[column].sum()
            assert np.allclose(total[toy.train.ids], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("constant", ["MOTIONS_BYTES", "BLOCK_BYTES"])
def test_parts_and_blocks_do_not_matter(constant: str, tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = case(tmp_path, "adam, weight decay")
    path, gradients = Path(toy.fitted), Gradients(toy.fitted, toy.train, toy.test)
    whole = np.concatenate([h.numpy() for _, h in Unroller(path, gradients).tangents(np.arange(9), True)])
    expected = toy.estimate("magic")
    monkeypatch.setattr(unrolled, constant, 1)
    found = toy.estimate("magic")
    parts = np.concatenate([h.numpy() for _, h in Unroller(path, gradients).tangents(np.arange(9), True)])
    assert np.allclose(parts, whole, rtol=0, atol=1e-13)
    assert np.allclose(found.values, expected.values, rtol=0, atol=1e-14)


def test_growth_does_not_depend_on_parts(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = case(tmp_path, "sgd")
    expected = toy.estimate("magic").report["growth"]
    monkeypatch.setattr(unrolled, "MOTIONS_BYTES", 1)
    assert toy.estimate("magic").report["growth"] == pytest.approx(expected, rel=1e-9)


def test_growth_is_that_of_the_adjoints(tmp_path: Folder) -> None:
    toy = train(tmp_path, table("regression"), Linear(), SGD(lr=0.1), batch_size=9, epochs=5)
    x = np.concatenate([toy.train.x, np.ones((9, 1))], 1).astype(np.float64)
    shrink = np.linalg.matrix_power(np.eye(4) - 0.1 * x.T @ x / 9, 5)
    theirs = plain.gradients(toy, toy.module(), toy.test)
    expected = 0.5 * np.log(np.square(theirs @ shrink).sum() / np.square(theirs).sum())
    unroller = Unroller(Path(toy.fitted), Gradients(toy.fitted, toy.train, toy.test))
    assert unroller.growth(toy.test).total == pytest.approx(expected, abs=1e-12)
    for count in (0, 2):  # without an audit too
        assert toy.estimate("magic", audit=count).report["growth"] == pytest.approx(expected, abs=1e-12)
    assert Growth().total == 0


def test_the_slope_of_a_convolutional_training_is_that_of_retraining(tmp_path: Folder) -> None:
    data = images(24, 2)
    parts = {name: getattr(data, name) for name in ("train", "test")}
    large = {name: replace(part, x=part.x.repeat(3, 1).repeat(2, 2).repeat(2, 3)) for name, part in parts.items()}
    model = CNN(channels=[4], hidden=16)
    toy = train(tmp_path, replace(data, **large), model, SGD(lr=0.05), batch_size=8, epochs=2)
    found, ids = toy.estimate("magic", audit=0, self_influence=False).values, toy.train.ids
    along = np.random.default_rng(0).normal(size=len(ids))  # all instances at once
    up, down = (plain.losses(toy, walk(toy, 1 + 1e-4 * sign * along)[1], toy.test) for sign in (1, -1))
    slope = (down - up) / 2e-4
    assert np.abs(along @ found - slope).max() < 1e-6 * np.abs(slope).max()
    few = toy.estimate("hydra", audit=0, indices=[int(i) for i in ids[:3]]).values
    assert np.allclose(few[:3], found[:3], rtol=0, atol=1e-12)
