"""LoGra, with matrices written out weight by weight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.checkpoints import toys
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train
from influx.streams import stream, stream_seed

SOLVED = 1e-8  # two ways to solve with a matrix whose condition is about 1e4


def logra(below: Path) -> Iterator[Comparison]:
    """Damped influence with the empirical Fisher matrix of each weight; projections of it; gradient similarity."""
    for kind, toy in toys(below):
        if "net" in kind:
            continue  # its many layers add nothing but time
        for damping, init in ((None, "random"), (0.3, "random"), (None, "pca")):
            found = toy.estimate("logra", rank=100, damping=damping, init=init)
            expected, own = _layers(toy, damping, None)
            yield compare(f"whole weights, damping {damping}, {init}, {kind}", found.values, expected, SOLVED)
            yield compare(f"on itself, damping {damping}, {init}, {kind}", array(found.self_influence), own, SOLVED)
    toy = train(below, table(), MLP(width=5))
    expected, own = _layers(toy, None, 2)
    found = toy.estimate("logra", rank=2)
    yield compare("sides projected to 2 numbers", found.values, expected, SOLVED)
    both, twice = [expected, _layers(toy, None, 2, again=1)[0]], toy.estimate("logra", rank=2, projections=2)
    yield compare("means over two projections", twice.values, np.mean(both, 0), SOLVED)
    yield compare("their standard error", array(twice.stderr), np.abs(both[0] - both[1]) / 2, SOLVED)
    relative = toy.estimate("logra", rank=2, normalize="loss_relative")
    yield compare("divided by the root of self-influence", relative.values, expected / np.sqrt(own)[:, None], SOLVED)
    n, large = len(toy.train), 1e9
    whole = sum(a @ b.T for a, b in _weights(toy))
    found = toy.estimate("logra", rank=100, damping=large)
    yield compare("damping times influence, as damping grows", n * large * found.values, whole, 1e-7)


def _weights(toy: Toy) -> Iterator[tuple[Array, Array]]:
    """Gradients of each weight in training and test instances, flat."""
    module = toy.module()
    for name, p in module.named_parameters():
        if name.endswith("weight") and p.ndim > 1:
            mine, theirs = (plain.gradients(toy, module, split, [p]) for split in (toy.train, toy.test))
            yield mine, theirs


def _layers(toy: Toy, damping: float | None, rank: int | None, again: int = 0) -> tuple[Array, Array]:
    """Values and self-influence, weight by weight."""
    n, total, own = len(toy.train), np.zeros((len(toy.train), len(toy.test))), np.zeros(len(toy.train))
    module = toy.module()
    shapes = [(i, p.shape) for i, (name, p) in enumerate(module.named_parameters()) if p.ndim > 1]
    for (number, shape), (mine, theirs) in zip(shapes, _weights(toy), strict=True):
        if rank is not None:
            drawn = np.kron(
                *(_side(toy, number, name, d, rank, again) for name, d in zip(("rows", "columns"), shape, strict=True))
            )
            mine, theirs = mine @ drawn, theirs @ drawn
        fisher = mine.T @ mine / n
        delta = 0.1 * np.trace(fisher) / len(fisher) if damping is None else damping
        solved = np.linalg.solve(fisher + delta * np.eye(len(fisher)), np.concatenate([theirs, mine]).T) / n
        both = mine @ solved
        total += both[:, : len(theirs)]
        own += np.diag(both[:, len(theirs) :])
    return total, own


def _side(toy: Toy, number: int, name: str, width: int, rank: int, again: int) -> Array:
    """``(d, k)`` orthonormal columns, as documented, times √(d/k)."""
    told = f"draws/projection/again {again}" if again else "draws/projection"
    seed = int(stream(toy.problem.seed, told).integers(1 << 63))
    own = torch.Generator().manual_seed(stream_seed(seed, f"{number}/{name}"))
    size = min(rank, width)
    basis = np.linalg.qr(torch.randn(width, size, dtype=torch.float64, generator=own).numpy())[0]
    return np.asarray(basis * np.sqrt(width / size))


def array(values: object) -> Array:
    """What is not missing."""
    assert isinstance(values, np.ndarray)
    return values
