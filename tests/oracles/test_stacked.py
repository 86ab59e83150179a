"""Many models trained at once are the models trained one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.learners.torch.learner import NetFactory, TorchLearner
from influx.learners.torch.optimizers import SGD, Adam, AdamW, Optimizer
from influx.learners.torch.training import Training
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.oracles.toys import images, table
from influx.problem import Data, Design, LossNorm, Outcomes
from influx.store import Folder

OPTIMIZERS: list[Optimizer] = [
    SGD(lr=0.3),
    SGD(lr=0.2, momentum=0.9, weight_decay=0.05),
    SGD(lr=0.2, momentum=0.9, weight_decay=0.05, decay_on="weights"),
    SGD(lr=0.2, momentum=0.9, dampening=0.5),
    SGD(lr=0.2, momentum=0.9, nesterov=True),
    Adam(lr=0.02, weight_decay=0.1),
    AdamW(lr=0.02),
]
NETS: dict[str, tuple[NetFactory, Data]] = {
    **{
        f"mlp {name}": (MLP(width=[5, 4], activation=name), table())
        for name in ("tanh", "relu", "gelu", "silu", "sigmoid")
    },
    "mlp without bias": (MLP(width=4, bias=False), table()),
    "regression": (MLP(width=4), table("regression")),
    "linear": (Linear(), table("regression")),
}
CNN_CASE = (CNN(channels=[3], hidden=4, norm="group"), images())


def design(n: int, norm: LossNorm = "full") -> Design:
    """Everything, three removals, random subsets and an empty set, doubled weights."""
    rng = np.random.default_rng(0)
    rows = [np.ones(n), *(1 - np.eye(n)[:3]), *(rng.random((3, n)) < 0.5), np.zeros(n), 2 * np.ones(n)]
    weights, zeros = np.stack(rows).astype(np.uint8), np.zeros(9, np.int64)
    return Design(weights=weights, init=zeros, order=zeros, loss_norm=norm)


def learner(model: NetFactory, engine: str, optimizer: Optimizer | None = None, **settings: Any) -> TorchLearner:
    given: dict[str, Any] = {"epochs": 2, "batch_size": 4, "dtype": "float64", "engine": engine} | settings
    return TorchLearner(model=model, optimizer=optimizer or SGD(lr=0.3, momentum=0.5), training=Training(**given))


def assert_same(left: tuple[Outcomes, Outcomes], right: tuple[Outcomes, Outcomes]) -> None:
    for mine, theirs in zip(left, right, strict=True):
        assert np.allclose(mine.loss, theirs.loss, rtol=1e-10, atol=1e-12)
        assert np.allclose(mine.margin, theirs.margin, rtol=1e-5, atol=1e-6)  # float32
        assert np.allclose(mine.prediction, theirs.prediction, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["dense", "vmap"])
@pytest.mark.parametrize("net", list(NETS))
def test_stacked_is_sequential_for_every_activation_and_risk(net: str, engine: str) -> None:
    model, data = NETS[net]
    found, plain = (learner(model, e).retrain(data, 0, design(9)) for e in (engine, "sequential"))
    assert_same(found, plain)


@pytest.mark.parametrize("engine", ["dense", "vmap"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_stacked_is_sequential_for_every_optimizer(optimizer: Optimizer, engine: str) -> None:
    model, data = NETS["mlp tanh"]
    settings = {"schedule": "cosine", "warmup_steps": 2}
    found, plain = (
        learner(model, e, optimizer, **settings).retrain(data, 0, design(9)) for e in (engine, "sequential")
    )
    assert_same(found, plain)


@pytest.mark.parametrize("engine", ["dense", "vmap"])
@pytest.mark.parametrize("norm", ["full", "subset"])
def test_stacked_is_sequential_under_clipping_and_both_norms(norm: LossNorm, engine: str) -> None:
    model, data = NETS["mlp tanh"]
    found, plain = (
        learner(model, e, clip_norm=0.2, drop_last=True).retrain(data, 0, design(9, norm))
        for e in (engine, "sequential")
    )
    assert_same(found, plain)


def test_vmap_is_sequential_for_a_convolutional_net() -> None:
    model, data = CNN_CASE
    assert_same(*(learner(model, e).retrain(data, 0, design(8)) for e in ("vmap", "sequential")))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several threads may cut a product elsewhere than one does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.fault(29, "the same bits")
def test_a_dense_model_has_the_same_bits_wherever_it_stands(precision: str) -> None:
    model, data = NETS["mlp tanh"]
    train, whole = learner(model, "dense", block=5, dtype=precision), design(9)
    expected = np.concatenate([train.retrain(data, 0, whole.rows(rows))[1].loss for rows in (slice(0, 5), slice(5, 9))])
    for rows in ([4, 3, 2, 1, 0], [3, 7, 5, 6, 4], [2], [1, 0]):
        found = train.retrain(data, 0, whole.rows(np.array(rows)))[1].loss
        assert found.tobytes() == expected[rows].tobytes()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_convolutional_model_has_the_same_bits_whatever_stands_beside_it(precision: str) -> None:
    model, data = CNN_CASE
    train, whole = learner(model, "vmap", block=4, dtype=precision), design(8)
    expected = train.retrain(data, 0, whole.rows(slice(0, 4)))[1].loss
    for rows in ([0, 1, 2, 3], [7, 1, 6, 3], [0, 1], [4, 5, 2, 8]):
        found = train.retrain(data, 0, whole.rows(np.array(rows)))[1].loss
        for place, row in enumerate(rows):
            assert row != place or found[place].tobytes() == expected[row].tobytes()


def test_a_convolutional_model_depends_on_its_place_by_rounding_only() -> None:
    # the library adds up a grouped convolution in another order for some of the groups
    model, data = CNN_CASE
    train, whole = learner(model, "vmap", block=5), design(8)
    expected = train.retrain(data, 0, whole.rows(slice(0, 5)))[1].loss
    found = train.retrain(data, 0, whole.rows(np.array([4, 3, 2, 1, 0])))[1].loss
    assert np.allclose(found[::-1], expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("engine", ["dense", "vmap", "sequential"])
def test_the_full_model_is_the_trained_model(engine: str, tmp_path: Path) -> None:
    model, data = NETS["mlp tanh"]
    alone = learner(model, engine)
    fitted = alone.fit(data, 0, Folder(tmp_path))
    again = alone.retrain(data, 0, design(9).rows(slice(0, 1)))[1]
    assert np.allclose(again.loss[0], fitted.outcomes(data.test).loss, rtol=1e-12, atol=0)


def test_models_trained_one_after_another_leave_nothing_behind() -> None:
    train, whole = learner(ResNet9(norm="batch", width=1 / 32), "sequential", epochs=1), design(8)
    together = train.retrain(images(), 0, whole.rows(slice(0, 3)))[1].loss
    alone = [train.retrain(images(), 0, whole.rows(slice(row, row + 1)))[1].loss[0] for row in range(3)]
    assert together.tobytes() == np.stack(alone).tobytes()


def test_init_and_order_make_different_models() -> None:
    model, data = NETS["mlp tanh"]
    one = design(9).rows(slice(0, 1))
    losses = [
        learner(model, "dense").retrain(data, 0, replace(one, init=np.array([i]), order=np.array([o])))[1].loss
        for i, o in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({loss.tobytes() for loss in losses}) == 3
