"""Training can be replayed and resumed bit by bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from influx.learners.torch.fitted import parameters_name, state_name
from influx.learners.torch.learner import NetFactory
from influx.learners.torch.optimizers import SGD, Adam, Optimizer
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.oracles import plain
from influx.oracles.retraining import retrain
from influx.oracles.toys import Toy, images, table, train
from influx.store import Folder


@dataclass(frozen=True)
class Case:
    model: NetFactory
    optimizer: Optimizer
    image: bool = False


CASES = {
    "momentum": Case(MLP(width=4), SGD(lr=0.3, momentum=0.9, weight_decay=0.1)),
    "adam": Case(MLP(width=4), Adam(lr=0.05)),
    "batch norm": Case(ResNet9(norm="batch", width=1 / 32), SGD(lr=0.1, momentum=0.5), image=True),
    "dropout": Case(MLP(width=8, dropout=0.5), SGD(lr=0.3, momentum=0.9)),
}


@pytest.fixture(params=list(CASES))
def toy(request: pytest.FixtureRequest, tmp_path: Path) -> Toy:
    case = CASES[request.param]
    data = images(n_train=6) if case.image else table()
    return train(tmp_path, data, case.model, case.optimizer, batch_size=3, epochs=2, schedule="cosine", clip_norm=1.0)


def tensors(toy: Toy, step: int) -> dict[str, torch.Tensor]:
    return toy.module(step).state_dict()


@pytest.mark.parametrize("start", [0, 1])
def test_replay_passes_through_every_saved_checkpoint(toy: Toy, start: int) -> None:
    steps = toy.steps()
    seen = []
    for state in toy.fitted.replay(steps[start], steps[-1]):
        if state.step in steps:
            seen.append(state.step)
            now, saved = state.module.state_dict(), tensors(toy, state.step)
            assert now.keys() == saved.keys()
            assert all(torch.equal(now[key], saved[key]) for key in saved)
    assert seen == steps[start + 1 :]


def test_replay_repeats_the_recorded_losses_and_clip_factors(toy: Toy) -> None:
    *_, last = toy.fitted.replay(0, toy.steps()[-1])
    record = toy.trajectory()
    assert last.losses == record["loss"].tolist() and last.clips == record["clip"].tolist()
    assert min(record["clip"]) <= 1.0


@pytest.mark.fault(30, "the same bits")
def test_training_goes_on_from_a_checkpoint_to_the_same_bits(toy: Toy) -> None:
    steps, before = toy.steps(), tensors(toy, toy.steps()[-1])
    lost = [name(step) for step in steps[2:] for name in (parameters_name, state_name)]
    Folder(toy.folder).sub("checkpoints").forget(*lost)
    assert toy.steps() == steps[:2]
    toy.learner.fit(toy.problem.data, toy.problem.seed, Folder(toy.folder))
    after = tensors(toy, steps[-1])
    assert toy.steps() == steps and all(torch.equal(after[key], before[key]) for key in before)


def test_the_record_tells_torch_how_to_get_the_same_model(tmp_path: Path) -> None:
    toy = train(tmp_path, table(), MLP(width=4), Adam(lr=0.05, weight_decay=0.1), schedule="step", decay_every=2)
    again = plain.losses(toy, retrain(toy), toy.test)
    assert np.allclose(again, toy.fitted.outcomes(toy.test).loss, rtol=1e-12, atol=0)


def test_recorded_losses_are_those_of_the_recorded_batches(tmp_path: Path) -> None:
    toy = train(tmp_path, table(), MLP(width=4), checkpoint_spacing="every")
    record = toy.trajectory()
    for step, expected in enumerate(record["loss"]):
        ids = record["batch_ids"][record["batch_offsets"][step] : record["batch_offsets"][step + 1]]
        every = plain.losses(toy, toy.module(step), toy.train)
        assert every[ids - toy.train.ids[0]].mean() == pytest.approx(expected, rel=1e-12)
