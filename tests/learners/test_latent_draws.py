"""Latent draws belong to instances: fresh in every training step, the same in every evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from influx.errors import IncompatibleError
from influx.learners.torch.fitted import chunks
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.optimizers import SGD
from influx.learners.torch.training import Engine, Training
from influx.problem import Data, Design, Split
from influx.store import Folder
from influx.streams import normals


class Noisy(nn.Module):
    """Mean over draws of |W x + b - e|² / 2."""

    def __init__(self, width: int, numbers: int):
        super().__init__()
        self.numbers, self.width = numbers, width
        self.layer = nn.Linear(width, numbers)

    def forward(self, x: Tensor) -> Tensor:
        draws = x[:, self.width :].unflatten(1, (-1, self.numbers))
        return (self.layer(x[:, : self.width]).unsqueeze(1) - draws).square().sum(2).mean(1, keepdim=True) / 2


@dataclasses.dataclass(frozen=True)
class Model:
    """A choice of model."""

    task = "density"
    draws: int = 1
    evaluation_draws: int = 4
    conditional: bool = False

    def noise(self, data: Data) -> int:
        return 3

    def build(self, data: Data) -> nn.Module:
        return Noisy(data.train.x.shape[1] + (len(data.classes) if self.conditional else 0), 3)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Another one, which learns from labels."""

    def build(self, data: Data) -> nn.Module:
        return nn.Linear(2, 1)


def toy(n: int = 12) -> Data:
    rng = np.random.default_rng(0)
    ids = np.arange(n + 4)
    x, y = rng.normal(size=(n + 4, 2)).astype(np.float32), rng.integers(0, 2, n + 4)
    train, test = (Split(x=x[part], y=y[part], ids=ids[part]) for part in (slice(0, n), slice(n, None)))
    return Data(name="toy", task="density", kind="tabular", train=train, test=test, classes=("a", "b"))


def learner(model: Model, engine: Engine = "auto") -> TorchLearner:
    training = Training(epochs=2, batch_size=4, dtype="float64", engine=engine)
    return TorchLearner(model=model, optimizer=SGD(lr=0.1), training=training)


def test_normals_are_normal_and_belong_to_ids() -> None:
    ids = np.arange(4000)
    drawn = normals(3, "draws", ids, 5)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(drawn.T)[np.triu_indices(5, 1)]).max() < 0.06
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.06
    np.testing.assert_array_equal(normals(3, "draws", ids[[7, 2]], 3), drawn[[7, 2], :3])
    for other in (normals(4, "draws", ids, 5), normals(3, "draws/0/1", ids, 5)):
        assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 0.02


def test_training_draws_are_fresh_and_evaluation_draws_are_not() -> None:
    made = learner(Model()).recipe(toy(), 5, 0)
    rows = torch.tensor([1, 3])
    assert made.inputs(rows, 0).shape == (2, 2 + 3)
    assert made.inputs(rows).shape == (2, 2 + 12)
    assert not torch.equal(made.inputs(rows, 0)[:, 2:], made.inputs(rows, 1)[:, 2:])
    torch.testing.assert_close(made.inputs(rows), made.inputs(torch.arange(12))[rows], rtol=0, atol=0)
    torch.testing.assert_close(made.inputs(rows, 4)[1:], made.inputs(rows[1:], 4), rtol=0, atol=0)


@pytest.mark.parametrize("conditional", [False, True])
def test_recorded_stacked_and_plain_training_agree_with_training_by_hand(tmp_path: Path, conditional: bool) -> None:
    data, model = toy(), Model(conditional=conditional)
    plain, many = learner(model, "sequential"), learner(model, "vmap")
    weights = np.ones((3, 12), np.uint8)
    weights[1, 5] = weights[2, 0] = 0
    zeros = np.zeros(3, np.int64)
    design = Design(weights=weights, init=zeros, order=zeros, loss_norm="full")
    slow, fast = plain.retrain(data, 5, design), many.retrain(data, 5, design)
    for one, other in zip(slow, fast, strict=True):
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-10)
    assert abs(slow[1].loss[1] - slow[1].loss[0]).max() > 1e-4

    fitted = plain.fit(data, 5, Folder(tmp_path))
    np.testing.assert_allclose(fitted.outcomes(data.test).loss, slow[1].loss[0], rtol=1e-10)
    *_, replayed = fitted.replay(0, 6)
    for p, q in zip(replayed.module.parameters(), fitted.model().parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
    halves = [fitted.with_draws(2, name).outcomes(data.test).loss for name in ("draws", "left")]
    assert abs(halves[0] - halves[1]).min() > 1e-6
    *_, replayed = fitted.with_draws(2, "left").replay(0, 6)  # training is what it was
    torch.testing.assert_close(next(replayed.module.parameters()), next(fitted.model().parameters()), rtol=0, atol=0)

    module, made = fitted.model(0), plain.recipe(data, 5, 0)
    label = np.eye(2)[data.train.y] if conditional else np.zeros((12, 0))
    for step in range(made.total):
        rows = made.batches[step]
        drawn = normals(5, f"draws/0/{step}", data.train.ids[rows], 3)
        x = torch.from_numpy(np.concatenate([data.train.x[rows], label[rows], drawn], 1))
        grads = torch.autograd.grad(module(x).mean(), list(module.parameters()))
        with torch.no_grad():
            for p, g in zip(module.parameters(), grads, strict=True):
                p -= 0.1 * g
    for p, q in zip(module.parameters(), fitted.model().parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_fewer_instances_go_through_at_a_time_the_more_draws_they_have() -> None:
    x = torch.zeros(5000, 2)
    assert [len(chunks(x, models, draws)[0]) for models, draws in ((1, 1), (1, 16), (8, 16), (1, 9999))] == [
        4096,
        256,
        32,
        1,
    ]
    assert TorchLearner(model=Model(), optimizer=SGD(), training=Training()).recipe(toy(), 0, 0).draws == 4


def test_a_classifier_is_refused_for_density_data() -> None:
    with pytest.raises(IncompatibleError, match="density"):
        TorchLearner(model=Classifier(), optimizer=SGD(), training=Training()).check(toy())


def test_labels_that_are_no_classes_cannot_be_a_condition() -> None:
    data = dataclasses.replace(toy(), classes=())
    with pytest.raises(IncompatibleError, match=r"model\.conditional"):
        learner(Model(conditional=True)).check(data)
