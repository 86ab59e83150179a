"""Compiled training steps: the same up to rounding, under the same names, and one sentence where nothing compiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from influx.added import without_added
from influx.errors import ConfigError
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.problem import Design


def trained(below: Path, **settings: Any) -> Toy:
    """Batches of 4, 4 and 1."""
    return toys.train(below, toys.table(), MLP(width=5), **settings)


def parameters(toy: Toy, step: int) -> dict[str, Tensor]:
    return load_file(toy.folder / "checkpoints" / f"step_{step:08d}.safetensors")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that a compiler, which changes nothing, was asked for."""
    sizes: list[int] = []

    def compiler(module: nn.Module, dynamic: bool) -> Callable[[Tensor], Tensor]:
        assert not dynamic

        def call(x: Tensor) -> Tensor:
            sizes.append(len(x))
            found: Tensor = module(x)
            return found

        return call

    monkeypatch.setattr(torch, "compile", compiler)
    return sizes


def test_it_is_part_of_what_a_problem_is_only_where_it_is_asked_for() -> None:
    assert without_added({"training": {"compile": False, "epochs": 1}}) == {"training": {"epochs": 1}}
    assert without_added({"training": {"compile": True}}) == {"training": {"compile": True}}


def test_recorded_steps_are_compiled_and_retrained_ones_are_not(tmp_path: Path, calls: list[int]) -> None:
    trained(tmp_path)
    assert not calls
    toy = trained(tmp_path, compile=True, engine="sequential")
    assert calls == [4, 4, 1] * 3
    list(toy.fitted.replay(3, 6))
    assert calls == [4, 4, 1] * 4
    zero = np.zeros(1, np.int64)
    design = Design(weights=np.ones((1, 9), np.uint8), init=zero, order=zero, loss_norm="full")
    toy.learner.retrain(toy.problem.data, 0, design)
    assert calls == [4, 4, 1] * 4


@pytest.mark.slow  # torch's compiler takes seconds to import
def test_what_cannot_be_compiled_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def call(x: Tensor) -> Tensor:
        raise TorchDynamoException("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda module, dynamic: call)
    with pytest.raises(ConfigError, match=r"cannot compile this model here \(No working C\+\+ compiler found\);"):
        trained(tmp_path, compile=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler
def test_compiled_steps_are_the_same_up_to_rounding_and_replays_to_the_bit(tmp_path: Path) -> None:
    plain, fast = trained(tmp_path / "plain"), trained(tmp_path / "fast", compile=True)
    for step in plain.steps():
        expected, found = parameters(plain, step), parameters(fast, step)
        assert list(found) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
    for now in fast.fitted.replay(3, 9):
        for name, value in now.module.state_dict().items() if now.step in fast.steps() else ():
            assert torch.equal(value, parameters(fast, now.step)[name])
