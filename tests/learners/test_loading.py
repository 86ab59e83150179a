"""Blocks that a thread loads ahead are those that would be loaded in turn."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from influx.engines import gradients, projections
from influx.learners.torch.loading import Pair, loaded, overlapped
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.problem import Split

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
