"""Training with bfloat16 passes: what it changes, what it keeps to the bit, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from influx.added import without_added
from influx.config import compose
from influx.errors import ConfigError, IncompatibleError
from influx.job import assemble
from influx.learners.torch.devices import device_of
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.mixed import passed
from influx.learners.torch.optimizers import SGD, AdamW
from influx.learners.torch.training import Training
from influx.manifest import identifying
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.models.text_decoder import TextDecoder
from influx.oracles.toys import Toy, estimator_named, images, table, tokens, train
from influx.problem import Design
from influx.rates import Machine
from influx.store import content_hash
from tests.engines.nets import Own

LOW: dict[str, Any] = {"dtype": "float32", "precision": "bfloat16"}
NETS: dict[str, Any] = {
    "mlp": (MLP(width=8), table()),
    "batch norm": (ResNet9(norm="batch", width=1 / 32), images(6)),
    "group norm": (CNN(channels=[3], hidden=4, norm="group"), images()),
    "text": (TextDecoder(width=8, hidden=8), replace(tokens(), task="density")),
}


@pytest.fixture(
    params=["mlp", "group norm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("batch norm", "text"))]
)
def low(request: pytest.FixtureRequest, tmp_path: Path) -> Toy:
    model, data = NETS[request.param]
    return train(tmp_path, data, model, SGD(lr=0.002, momentum=0.5), **LOW)


def design(n: int, rows: int = 4) -> Design:
    """Everything, and single removals."""
    weights, zeros = np.stack([np.ones(n), *(1 - np.eye(n)[: rows - 1])]).astype(np.uint8), np.zeros(rows, np.int64)
    return Design(weights=weights, init=zeros, order=zeros, loss_norm="full")


def flat(toy: Toy) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in toy.fitted.model().parameters()])


def test_it_is_another_training_to_nearly_the_same_model(low: Toy, tmp_path: Path) -> None:
    plain = train(tmp_path, low.problem.data, low.learner.model, SGD(lr=0.002, momentum=0.5), dtype="float32")
    assert plain.problem.id != low.problem.id
    ours, theirs = flat(low), flat(plain)
    assert ours.dtype == theirs.dtype == torch.float32  # bfloat16 has 8 bits: 0.004
    assert 1e-6 < float((ours - theirs).norm() / theirs.norm()) < 0.05
    found, expected = (toy.fitted.outcomes(toy.test).loss.mean() for toy in (low, plain))
    assert found == pytest.approx(expected, rel=0.05)


def test_retraining_on_everything_is_the_training_to_the_bit(low: Toy) -> None:
    learner = replace(low.learner, training=replace(low.learner.training, engine="sequential"))
    for found, split in zip(
        learner.retrain(low.problem.data, 0, design(len(low.train))), (low.train, low.test), strict=True
    ):
        expected = low.fitted.outcomes(split).loss
        assert np.array_equal(found.loss[0], expected) and not np.array_equal(found.loss[1], expected)


def test_replay_repeats_it_to_the_bit(low: Toy) -> None:
    *_, last = low.fitted.replay(0, low.steps()[-1])
    assert last.losses == low.trajectory()["loss"].tolist()
    assert torch.equal(torch.cat([p.detach().flatten() for p in last.module.parameters()]), flat(low))


@pytest.mark.parametrize(
    "net", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("group norm", "text"))]
)
def test_models_retrained_together_are_in_it_too(net: str) -> None:
    model, data = NETS[net]
    n = len(data.train)

    def losses(engine: str, **more: Any) -> np.ndarray:
        training = Training(epochs=3, batch_size=4, engine=engine, **(LOW | more))
        return TorchLearner(model=model, optimizer=SGD(lr=0.1), training=training).retrain(data, 0, design(n))[1].loss

    one, together, exact = losses("sequential"), losses("vmap"), losses("vmap", precision="model")
    assert np.allclose(together, one, rtol=0.05) and not np.allclose(together, exact, rtol=1e-5)
    assert np.array_equal(losses("auto"), together)


def test_risks_of_texts_are_summed_in_single_precision() -> None:
    model, data = NETS["text"]
    torch.manual_seed(0)
    module, x = model.build(data), torch.from_numpy(data.train.x)
    with torch.no_grad():
        found, exact = passed("bfloat16", module, x), module(x)
    assert found.dtype == torch.float32 and torch.allclose(found, exact, rtol=0.01)
    assert not torch.equal(found, found.bfloat16().float()) and not torch.equal(found, exact)


@pytest.mark.parametrize("name", ["hydra", "magic", "sgd_influence", "hydra_fast"])
def test_unrolling_a_rounded_training_is_refused(name: str, tmp_path: Path) -> None:
    toy = train(tmp_path, table(), MLP(width=4), SGD(lr=0.2), **LOW)
    with pytest.raises(IncompatibleError, match=r"training\.precision=bfloat16 rounds.*use training\.precision=model"):
        toy.estimate(name)


def test_sums_over_its_steps_say_so(tmp_path: Path) -> None:
    toy = train(tmp_path, table(), MLP(width=4), SGD(lr=0.2), **LOW)
    estimator = estimator_named("tracin")
    run = toy.run(estimator, "tracin")
    assert np.isfinite(estimator.estimate(run).values).all()
    assert sum("training.precision" in warning for warning in run.warnings) == 1


def test_what_cannot_be_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"precision=bfloat16 is for training\.dtype=float32, got float64"):
        Training(dtype="float64", precision="bfloat16")
    learner = TorchLearner(model=MLP(width=4), optimizer=SGD(), training=Training(engine="dense", **LOW))
    with pytest.raises(IncompatibleError, match=r"engine=dense takes .*precision=model; use training\.engine=auto"):
        learner.check(table())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match=r"the device cuda does not know bfloat16; use training\.precision=model"):
        device_of(Training(device="cuda", **LOW))


class Fixed(nn.Module):
    """A product that insists on the type of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        if hidden.dtype != self.last.weight.dtype:
            raise RuntimeError("expected both to have the same dtype")
        return self.last(hidden)


def test_a_model_that_fails_in_it_is_refused_by_its_own_words() -> None:
    learner = TorchLearner(model=Own(make=Fixed), optimizer=AdamW(), training=Training(**LOW))
    with pytest.raises(IncompatibleError, match=r"with training\.precision=bfloat16 \(expected both.*; use training"):
        learner.check(table())
    replace(learner, training=Training()).check(table())


def test_the_default_makes_no_other_problem() -> None:
    asked = ["dataset=iris", "model=linear", "estimator=random", "truth=none", "metric=[]"]
    plain, other = (assemble(compose([*asked, *more])) for more in ([], ["training.precision=bfloat16"]))
    assert "precision" not in plain.problem.config["training"] and plain.settings["training"]["precision"] == "model"
    assert other.problem.config["training"]["precision"] == "bfloat16"
    assert plain.problem.id != other.problem.id and plain.name != other.name
    then = dict(plain.settings["training"])
    del then["precision"], then["compile"]  # as versions before them wrote
    parts = [1, dict(plain.problem.config) | {"training": then}, plain.problem.seed, plain.problem.data.fingerprint()]
    assert content_hash(parts, 16) == plain.problem.id
    values = dict(plain.settings.values) | {"choices": {}}
    assert identifying(values, ()) == identifying(values | {"training": then}, ())
    assert without_added(other.settings.values)["training"]["precision"] == "bfloat16"


def test_a_described_machine_trains_at_its_speed() -> None:
    machine = Machine(float32=1.0, tf32=4.0, bfloat16=8.0, numbers=1.0, compared=1.0, layer_step=1e-9, memory_gb=1.0)
    seconds = [machine.training_seconds(8.0, 1, 1, precision) for precision in ("float64", "float32", "bfloat16")]
    assert seconds == [16.0, 8.0, 1.0]
