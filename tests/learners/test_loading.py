"""Blocks that a thread loads ahead are those that would be loaded in turn."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.engines import gradients, projections
from influx.learners.torch import inputs, learner, loading
from influx.learners.torch.loading import Pair, loaded, overlapped
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.models.vae import VAE
from influx.oracles import toys
from influx.problem import Design, Split

SPLIT = Split(x=np.arange(14.0).reshape(7, 2), y=np.arange(7), ids=np.arange(7))


class Threaded:
    """Loads in the other thread, as an accelerator's copies are started there; remembers what was taken."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def load(self, load, part):
        assert threading.current_thread().name.startswith("influx-loading")
        return load(part)

    def take(self, pair):
        self.taken.append(float(pair[0][0, 0]))
        return pair


def tensors(split: Split) -> Pair:
    return torch.from_numpy(split.x), torch.from_numpy(split.y)


def ahead(split: Split, size: int, load) -> object:
    """``loaded`` as on an accelerator."""
    parts = [slice(start, min(start + size, len(split))) for start in range(0, len(split), size)]
    first = load(split.take(parts[0]))
    return overlapped(parts, first, lambda part: load(split.take(part)), Threaded())


@pytest.mark.parametrize("way", [loaded, ahead])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_every_row_comes_once_and_in_order(way, size: int) -> None:
    parts, xs, ys = [], [], []
    for part, (x, y) in way(SPLIT, size, tensors):
        parts += range(part.start, part.stop)
        xs.append(x)
        ys.append(y)
    assert parts == list(range(7)) and all(len(x) == size for x in xs[:-1])
    assert np.array_equal(torch.cat(xs), SPLIT.x) and np.array_equal(torch.cat(ys), SPLIT.y)
    assert list(loaded(SPLIT.take(slice(0, 0)), size, tensors)) == []


def test_the_next_block_is_loaded_during_the_one_before_and_no_other() -> None:
    begun = [threading.Event() for _ in range(3)]
    parts, beside = [slice(k, k + 1) for k in range(3)], Threaded()

    def load(part: slice) -> Pair:
        begun[part.start].set()
        return tensors(SPLIT.take(part))

    for number, (part, (x, _)) in enumerate(overlapped(parts, load(parts[0]), load, beside)):
        assert part == parts[number] and np.array_equal(x, SPLIT.x[part])
        assert number == 2 or begun[number + 1].wait(5)  # while this one is still in use
        assert not any(event.is_set() for event in begun[number + 2 :])
    assert beside.taken == [2.0, 4.0]


def test_an_error_comes_where_the_block_was_due_and_no_thread_stays() -> None:
    def load(part: slice) -> Pair:
        if part.start == 2:
            raise OSError("the disk is gone")
        return tensors(SPLIT.take(part))

    parts, seen = [slice(k, k + 1) for k in range(4)], []
    with pytest.raises(OSError, match="the disk is gone"):
        for part, _ in overlapped(parts, load(parts[0]), load, Threaded()):
            seen.append(part.start)
    assert seen == [0, 1]
    left = overlapped(parts[:2], load(parts[0]), load, Threaded())
    next(left)
    left.close()
    assert not any(thread.name.startswith("influx-loading") for thread in threading.enumerate())


@pytest.mark.parametrize("name", ["tracincp", "trak"])
def test_influence_has_the_same_bits_with_blocks_loaded_ahead(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients.GradientsAt, "block_size", lambda at, split: 2)

    def values(below: Path) -> np.ndarray:
        return toys.train(below, toys.table(), MLP(width=3), epochs=1, checkpoints=1).estimate(name).values

    in_turn = values(tmp_path / "in turn")
    for module in (gradients, projections):
        monkeypatch.setattr(module, "loaded", ahead)
    assert np.array_equal(values(tmp_path / "ahead"), in_turn)


APART: dict[str, Any] = {
    "plain": (MLP(width=3), toys.table()),
    "batch norm": (ResNet9(norm="batch", width=1 / 32), toys.images(6)),
    "latent draws": (VAE(latent=2, width=[3]), replace(toys.table(), task="density")),
}


@pytest.mark.parametrize("name", ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in list(APART)[1:])])
def test_data_that_lie_apart_make_the_same_bits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = APART[name]
    n = len(data.train)
    design = Design(weights=1 - np.eye(n)[:3], init=np.zeros(3, int), order=np.zeros(3, int), loss_norm="full")

    def made(below: Path) -> list[np.ndarray]:
        toy = toys.train(below, data, model, SGD(lr=0.05), epochs=2)
        parts = [p.detach().flatten().numpy() for p in toy.fitted.model().parameters()]
        retrained = [found.loss for found in toy.learner.retrain(data, 0, design)]
        return [*parts, *retrained, toy.fitted.outcomes(data.train).loss]

    together, seen = made(tmp_path / "together"), []
    for module in (inputs, learner):
        monkeypatch.setattr(module, "lies_apart", lambda *given: True)
    monkeypatch.setattr(loading.AsIs, "take", lambda self, pair: seen.append(threading.active_count()) or pair)
    apart = made(tmp_path / "apart")
    assert all(np.array_equal(a, b) for a, b in zip(apart, together, strict=True))
    assert seen and max(seen) > 1  # a thread was there to load


def test_data_lie_apart_from_a_card_that_they_would_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        total_memory = 8 * 14

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert not loading.lies_apart(SPLIT, torch.float64, cpu)
    assert loading.lies_apart(SPLIT, torch.float64, cuda) and not loading.lies_apart(SPLIT, torch.float32, cuda)
