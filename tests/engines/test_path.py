"""The states of a training come back bit by bit, forwards and backwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path as Folder

import numpy as np
import pytest
import torch

from influx.engines import path as engine
from influx.engines.path import Path, check_batches, check_sgd, check_steps, start_of_last
from influx.errors import ConfigError, DataError, IncompatibleError
from influx.learners.torch.optimizers import SGD, Adam, AdamW
from influx.learners.torch.sequential import State
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.oracles.toys import Toy, images, table, train

TOTAL = 12  # steps of four epochs of three batches, saved at 0, 4, 8 and 12
STRETCHES = [(0, TOTAL), (0, 8), (3, 7), (4, 8), (5, TOTAL), (11, TOTAL), (0, 11), (5, 6)]
SGD_MOMENTUM, ADAM = SGD(lr=0.2, momentum=0.9, weight_decay=0.1), Adam(lr=0.01)


def trained(below: Folder, optimizer: SGD | Adam | AdamW, **settings: object) -> Toy:
    return train(below, table(), MLP(width=4), optimizer, epochs=4, **settings)


def numbers(state: State) -> tuple[int, bytes]:
    """All that a state consists of."""
    tensors = [*state.module.parameters(), *state.module.buffers(), *(t for ts in state.slots.values() for t in ts)]
    return state.step, b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)


def recorded(toy: Toy, first: int, stop: int) -> list[tuple[int, bytes]]:
    """The same of a training in which every state was saved."""
    every = replace(toy.learner.training, checkpoint_spacing="every")
    model, optimizer = toy.learner.model, toy.learner.optimizer
    settings = {name: value for name, value in vars(every).items() if name != "block"}
    saved = train(toy.folder, toy.problem.data, model, optimizer, **settings)
    return [numbers(saved.fitted.state(step)) for step in range(first, stop)]


def seen(states: Iterator[State]) -> list[tuple[int, bytes]]:
    return [numbers(state) for state in states]


@pytest.mark.parametrize(
    "optimizer", [SGD_MOMENTUM, ADAM, AdamW(lr=0.01, weight_decay=0.5)], ids=lambda o: type(o).__name__
)
def test_every_state_forwards(optimizer: SGD | Adam | AdamW, tmp_path: Folder) -> None:
    toy = trained(tmp_path, optimizer, clip_norm=0.3, schedule="cosine")
    assert toy.steps() == [0, 4, 8, 12]
    every = recorded(toy, 0, TOTAL + 1)
    for first, last in STRETCHES:
        assert seen(Path(toy.fitted).forward(first, last)) == every[first : last + 1]


@pytest.mark.parametrize("held", [engine.STATES_BYTES, 1], ids=["stretches in memory", "by halves"])
@pytest.mark.parametrize("optimizer", [SGD_MOMENTUM, ADAM], ids=lambda o: type(o).__name__)
def test_every_state_backwards(
    optimizer: SGD | Adam, held: int, tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "STATES_BYTES", held)
    toy = trained(tmp_path, optimizer, checkpoints=1)
    every = recorded(toy, 0, TOTAL)
    for first, last in STRETCHES:
        assert seen(Path(toy.fitted).backward(first, last)) == every[first:last][::-1]


@pytest.mark.parametrize("step", [0, 1, 4, 5, 11, 12])
def test_one_state(step: int, tmp_path: Folder) -> None:
    toy = trained(tmp_path, SGD_MOMENTUM)
    assert seen(Path(toy.fitted).forward(step, step)) == recorded(toy, step, step + 1)


def test_halving_replays_no_more_than_a_logarithm_of_the_steps(
    tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "STATES_BYTES", 1)
    toy = train(tmp_path, table(), MLP(width=4), epochs=64, batch_size=9, checkpoints=1)
    steps = []
    onward = type(toy.fitted).onward

    def counted(fitted: object, state: State, stop: int) -> Iterator[State]:
        for now in onward(fitted, state, stop):  # type: ignore[arg-type]
            steps.append(now.step)
            yield now

    monkeypatch.setattr(type(toy.fitted), "onward", counted)
    assert [state.step for state in Path(toy.fitted).backward(0, 64)] == list(range(64))[::-1]
    assert len(steps) <= 64 * 6 / 2


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_buffers_come_back_in_one_module_that_may_be_run_in_between(direction: str, tmp_path: Folder) -> None:
    toy = train(tmp_path, images(6), ResNet9(norm="batch", width=1 / 32), SGD_MOMENTUM, epochs=2, batch_size=3)
    found, modules = [], []
    for state in getattr(Path(toy.fitted), direction)(0, 4):
        assert not state.module.training
        found.append(numbers(state))
        modules.append(state.module)
        state.module(toy.fitted.recipe.x[:2]).sum().backward()
    assert sorted(found) == recorded(toy, 0, 5 if direction == "forward" else 4)
    assert all(module is modules[0] for module in modules)


def test_another_layout_in_memory_changes_rounding_only(tmp_path: Folder) -> None:
    toy = train(tmp_path, images(), CNN(channels=[3], hidden=4), SGD_MOMENTUM, epochs=4, checkpoints=1)
    saved = dict(recorded(toy, 0, 9))
    for state in Path(toy.fitted).forward(0, 8):
        expected = np.frombuffer(saved[state.step])
        assert np.allclose(np.frombuffer(numbers(state)[1]), expected, rtol=0, atol=1e-13)
        state.module.to(memory_format=torch.channels_last)


def damaged(toy: Toy, step: int) -> Toy:
    """Its record has another loss of one step."""
    arrays = toy.trajectory()
    arrays["loss"][step - 1] *= 1.01
    np.savez(toy.folder / "trajectory.npz", **arrays)
    return replace(toy, fitted=replace(toy.fitted))


@pytest.mark.parametrize("step", [1, 6, 11])
def test_a_recorded_loss_that_the_replay_does_not_give_is_an_error(step: int, tmp_path: Folder) -> None:
    toy = damaged(trained(tmp_path, SGD_MOMENTUM), step)
    for states in (Path(toy.fitted).forward(0, TOTAL), Path(toy.fitted).backward(0, TOTAL)):
        with pytest.raises(DataError, match=rf"step {step} gave.*trajectory\.npz"):
            list(states)


def test_epochs_and_batches(tmp_path: Folder) -> None:
    toy = trained(tmp_path, SGD_MOMENTUM)
    path, recipe = Path(toy.fitted), toy.fitted.recipe
    assert path.total == TOTAL and check_batches(recipe, "equal") == 4
    assert [start_of_last(recipe, epochs) for epochs in (None, 1, 2, 4, 9)] == [0, 9, 6, 0, 0]
    for step in (0, 2, 7):
        rows, x, y = path.batch(step)
        record = toy.trajectory()
        ids = record["batch_ids"][record["batch_offsets"][step] : record["batch_offsets"][step + 1]]
        assert toy.train.ids[rows.numpy()].tolist() == ids.tolist()
        inputs, targets = toy.tensors(toy.train)
        assert torch.equal(x, inputs[rows]) and torch.equal(y, targets[rows])


def test_rows_are_found_by_identity(tmp_path: Folder) -> None:
    toy = trained(tmp_path, SGD_MOMENTUM)
    few = toy.train.take(np.array([5, 2]))
    assert Path(toy.fitted).rows_in(few).tolist() == [-1, -1, 1, -1, -1, 0, -1, -1, -1]


def test_batches_of_several_are_refused_on_request(tmp_path: Folder) -> None:
    with pytest.raises(ConfigError, match=r"batch_split=error needs training\.batch_size=1.*batches of 4"):
        check_batches(trained(tmp_path, SGD_MOMENTUM).fitted.recipe, "error")
    assert check_batches(trained(tmp_path, SGD_MOMENTUM, batch_size=1).fitted.recipe, "error") == 1


def test_another_optimizer_than_sgd_is_refused(tmp_path: Folder) -> None:
    check_sgd(trained(tmp_path, SGD_MOMENTUM).fitted.recipe, "sgd_influence", "magic")
    with pytest.raises(IncompatibleError, match=r"sgd_influence is about SGD.*Adam; use estimator=magic"):
        trained(tmp_path, ADAM).estimate("sgd_influence")


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (MLP(width=4, dropout=0.2), "dropout or other randomness.*use dropout=0"),
        (ResNet9(norm="batch", width=1 / 32), "batch normalisation in training mode.*use norm=group"),
    ],
    ids=["dropout", "batch norm"],
)
def test_steps_that_are_no_functions_of_the_weights_are_refused_by_name(
    net: MLP | ResNet9, words: str, tmp_path: Folder
) -> None:
    toy = train(tmp_path, images(6), net, epochs=1, batch_size=3)
    with pytest.raises(IncompatibleError, match=words):
        check_steps(toy.fitted.recipe)
    for name in ("hydra", "magic", "sgd_influence", "hydra_fast"):
        with pytest.raises(IncompatibleError, match=words):
            toy.estimate(name)
    toy.estimate("hydra_fast", audit=0)
