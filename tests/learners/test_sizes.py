"""Large nets are counted and checked without their numbers, with the same answers."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from influx.commands.plan import foresee
from influx.errors import IncompatibleError
from influx.learners.torch import pace, sizes
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.optimizers import AdamW
from influx.learners.torch.training import Training
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.models.text_decoder import TextDecoder
from influx.oracles import toys
from influx.planning import NetShape
from influx.problem import Data, Problem
from tests.engines import nets
from tests.engines.nets import Own

TOKENS = toys.tokens()
TEXTS = replace(TOKENS, task="density")
NETS: dict[str, tuple[Any, Data]] = {
    "mlp": (MLP(width=5), toys.table()),
    "cnn": (CNN(channels=[3], hidden=4), toys.images()),
    "decoder": (TextDecoder(width=4, heads=2, hidden=5, depth=2), TEXTS),
    "tied": (TextDecoder(width=4, heads=2, hidden=5, tied=True), TEXTS),
    "branching": (Own(make=nets.Branching), toys.table()),
}


def learner(model: Any, **settings: Any) -> TorchLearner:
    return TorchLearner(model=model, optimizer=AdamW(lr=0.01), training=Training(epochs=2, batch_size=4, **settings))


def seen(name: str) -> tuple[NetShape, str, Any]:
    """Sizes, cost and traits of a net that a new learner has checked."""
    model, data = NETS[name]
    made = learner(model)
    made.check(data)
    shape = made.net_shape(Problem(data=data, learner=made, seed=0, config={}))
    return shape, made.cost(data, 3).formula, made._traits(data)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "LARGE", 1)
    monkeypatch.setattr(sizes, "LONG", 1)
    monkeypatch.setattr(sizes, "FEW", 3)


@pytest.mark.parametrize("name", NETS)
def test_a_large_net_has_the_sizes_that_it_would_have_with_numbers(name: str, request: pytest.FixtureRequest) -> None:
    before = seen(name)
    request.getfixturevalue("all_large")
    after = seen(name)
    assert after[:2] == before[:2]
    assert replace(after[2], stackable=before[2].stackable) == before[2]
    assert after[2].stackable is (name == "mlp")  # the others are not tried: one of them is large enough alone


@pytest.mark.parametrize("tied", [False, True])
def test_products_of_a_decoder_are_counted_by_hand(tied: bool) -> None:
    d, hidden, depth, made = 4, 5, 2, learner(TextDecoder(width=4, heads=2, hidden=5, depth=2, tied=tied))
    length, words = TEXTS.train.x.shape[1] - 1, len(TEXTS.vocabulary)
    block = length * (4 * d * d + 2 * d * hidden) + 2 * length**2 * d
    assert made.counted(TEXTS).macs == depth * block + length * d * words
    assert f"6 x {made.counted(TEXTS).macs:.3g}" in made.cost(TEXTS, 1).formula


class Spied(nn.Module):
    """A mean of embedded tokens that notes where and how long its inputs are."""

    notes: ClassVar[list[tuple[str, int]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.notes.append((x.device.type, x.shape[1]))
        out: torch.Tensor = self.head(self.table(x).mean(1))
        return out


@pytest.mark.usefixtures("all_large")
def test_numbers_pass_through_a_large_net_for_a_few_tokens_only() -> None:
    Spied.notes.clear()
    made = learner(Own(make=Spied))
    made.check(TOKENS)
    made.cost(TOKENS, 1)
    assert set(Spied.notes) == {("cpu", 3), ("meta", 6)}


@pytest.mark.usefixtures("all_large")
def test_a_large_net_that_does_not_fit_the_data_is_refused_for_what_it_is() -> None:
    with pytest.raises(IncompatibleError, match=r"cannot be trained on inputs of shape \(3,\) \(mat1 and mat2"):
        learner(Own(make=lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 3)))).check(toys.table())


def test_an_outline_keeps_ties_and_leaves_the_module_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    module[2].weight = module[0].weight
    copied = sizes.outline(module)
    assert copied[2].weight is copied[0].weight and all(t.is_meta for t in copied.state_dict().values())
    assert [t.shape for t in copied.state_dict().values()] == [t.shape for t in module.state_dict().values()]
    assert not any(t.is_meta for t in module.state_dict().values())


def test_the_generator_stays_where_it_was_when_tokens_are_tried(all_large: None) -> None:
    module = nn.Sequential(nn.Embedding(12, 2), nn.Dropout(), nn.Flatten(), nn.Linear(12, 1))
    x, before = torch.from_numpy(TOKENS.train.x), torch.get_rng_state()
    assert sizes.few_tokens(module, x) is x  # its last layer takes all six tokens
    assert sizes.few_tokens(module[:2], x).shape == (len(x), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_net_that_is_slow_for_one_instance_is_planned_by_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    made, data = learner(MLP(width=5)), toys.table()
    problem = Problem(data=data, learner=made, seed=0, config={})
    monkeypatch.setattr(pace, "UNTIMED", 1.0)
    monkeypatch.setattr(pace, "_timed", None)
    monkeypatch.setattr(pace, "measure", lambda: type("Rates", (), {"flops": 1000.0}))
    found, flops = made.pace(problem), made.cost(data, 1).flops
    assert found.training == pytest.approx(flops / 1000)
    assert found.model == pytest.approx((flops + 2 * made.counted(data).macs * 13) / 1000)
    assert "by their operations" in found.note


@pytest.mark.slow
def test_a_plan_of_the_language_model_at_full_size_takes_seconds() -> None:
    full = ["dataset.length=1024", "dataset.vocabulary=50257", "dataset.n_train=10000", "dataset.n_test=100"]
    gpt2 = ["model.width=768", "model.depth=12", "model.heads=12", "model.hidden=3072"]
    start = time.process_time()
    planned = foresee(["experiment=gpt2_shaped", *full, *gpt2, "training.epochs=1"])
    assert time.process_time() - start < 60
    rows = {row["stage"]: row for row in planned["stages"]}
    assert "124439040 parameters" in rows["train"]["formula"] and rows["estimate"]["seconds"] > 3600
