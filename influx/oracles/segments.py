"""SOURCE, by dense matrices and by loops over training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import nn

from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.curvature_layers import layer_matrices, pieces
from influx.oracles.dense import dense_matrix
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, bundled, converged, table, train

DECAY = 0.05
Means = Callable[[Toy, Sequence[int]], Array]  # curvature (p, p), a mean over checkpoints


def _exponentials(h: Array, total: float) -> tuple[Array, Array]:
    """e^(-S H), and (I - e^(-S H)) H⁻¹ as the integral of e^(-t H), by eigenvectors."""
    values, vectors = np.linalg.eigh(h)
    values = np.maximum(values, 0)
    gained = [total if s == 0 else -np.expm1(-total * s) / s for s in values]
    return vectors @ np.diag(np.exp(-total * values)) @ vectors.T, vectors @ np.diag(gained) @ vectors.T


def _steps(h: Array, rates: Array) -> tuple[Array, Array]:
    """What steps of full batches do to a shift, and to one that a constant gradient makes; one after the other."""
    kept, gained = np.eye(len(h)), np.zeros_like(h)
    for rate in rates:
        kept, gained = kept - rate * h @ kept, gained - rate * h @ gained + rate * np.eye(len(h))
    return kept, gained


@dataclass(frozen=True, kw_only=True)
class _Averaged(Toy):
    """A toy at the mean of the parameters saved after some steps, whichever of them is asked for."""

    saved: Sequence[int]

    def module(self, step: int | None = None) -> nn.Module:
        """Means of the files' tensors."""
        module, files = super().module(), [load_file(file) for file in map(self._file, self.saved)]
        module.load_state_dict({name: sum(file[name] for file in files) / len(files) for name in files[0]})
        return module

    def _file(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step_{step:08d}.safetensors"


def _at_means(curvature: Callable[[Toy, Sequence[int]], Array]) -> Means:
    return lambda toy, saved: curvature(_averaged(toy, saved), [saved[0]])


def _averaged(toy: Toy, saved: Sequence[int]) -> Toy:
    return _Averaged(problem=toy.problem, fitted=toy.fitted, folder=toy.folder, saved=saved)


def _expected(
    toy: Toy, means: Means, parts: list[tuple[int, int, list[int]]], steps: bool, fast: bool = False
) -> tuple[Array, Array]:
    """Influence on test instances and on the training instances themselves; a part is first, last, checkpoints.

    ``fast`` takes gradients at the mean of the checkpoints' parameters.
    """
    rates, n = toy.trajectory()["lr"][:, 0], len(toy.train)
    optimizer = toy.learner.optimizer
    rates = rates / (1 - optimizer.momentum) if isinstance(optimizer, SGD) else rates
    theirs, mine = (plain.gradients(toy, toy.module(), split) for split in (toy.test, toy.train))
    values, own = np.zeros((n, len(theirs))), np.zeros(n)
    for first, last, saved in reversed(parts):
        h = means(toy, saved)
        kept, gained = _steps(h, rates[first:last]) if steps else _exponentials(h, float(rates[first:last].sum()))
        points = [_averaged(toy, saved).module()] if fast else [toy.module(step) for step in saved]
        gradients = np.mean([plain.gradients(toy, point, toy.train) for point in points], axis=0)
        values += gradients @ gained @ theirs.T / n
        own += np.einsum("np,pq,nq->n", gradients, gained, mine) / n
        theirs, mine = theirs @ kept, mine @ kept
    return values, own


def _whole(curvature: str) -> Means:
    return lambda toy, saved: np.mean([dense_matrix(toy, curvature, step) for step in saved], axis=0)


def _layered(toy: Toy, saved: Sequence[int]) -> Array:
    """EK-FAC matrices of all layers on one diagonal, in the order of the parameters."""
    matrices = layer_matrices(toy, "ekfac", "ggn", saved, DECAY)
    size = sum(map(len, matrices))
    # a layer's numbers are rows of weights with their bias here, weights and then biases in a gradient
    places = [piece.reshape(-1).astype(int) for piece in pieces(toy.module(), np.arange(size, dtype=float)[None])]
    made = np.zeros((size, size))
    for place, matrix in zip(places, matrices, strict=True):
        made[np.ix_(place, place)] = matrix
    return made


def source(below: Path) -> Iterator[Comparison]:
    """Dense matrices, steps one after the other, and the limits of much and little training."""
    optimizer = SGD(lr=0.2, weight_decay=DECAY)
    toy = train(below, table(), MLP(width=3), optimizer, epochs=8, checkpoints=6, schedule="cosine")
    steps = toy.steps()
    assert steps == [0, 4, 8, 12, 16, 20, 24]
    three = [(0, 8, steps[1:3]), (8, 16, steps[3:5]), (16, 24, steps[5:7])]
    two = [(0, 12, [4]), (12, 24, [16])]
    for told, settings, means, parts in (
        ("ekfac, defaults", {"whole": 0}, _layered, three),
        ("exact, defaults", {"solver": "exact"}, _whole("ggn"), three),
        ("exact, discrete steps", {"solver": "exact", "filter": "discrete"}, _whole("ggn"), three),
        (
            "exact, empirical Fisher matrix, two stretches with one checkpoint each",
            {"solver": "exact", "curvature": "empirical_fisher", "segments": 2, "checkpoints": 1},
            _whole("empirical_fisher"),
            two,
        ),
        ("ekfac, at mean parameters", {"whole": 0, "average": "parameters"}, _at_means(_layered), three),
        (
            "exact, at mean parameters",
            {"solver": "exact", "average": "parameters"},
            _at_means(_whole("ggn")),
            three,
        ),
    ):
        fast = settings.get("average") == "parameters"
        values, own = _expected(toy, means, parts, settings.get("filter") == "discrete", fast)
        found = toy.estimate("source", **settings)
        yield compare(f"dense matrices, {told}", found.values, values, 1e-9)
        yield compare(f"the same on itself, {told}", _own(found.self_influence), own, 1e-9)
    momentum = train(below, table(), MLP(width=3), SGD(lr=0.05, momentum=0.8, weight_decay=DECAY), checkpoints=3)
    parts = [(0, 3, [3]), (3, 6, [6]), (6, 9, [9])]
    values, _ = _expected(momentum, _whole("ggn"), parts, False)
    yield compare("dense matrices, momentum", momentum.estimate("source", solver="exact").values, values, 1e-9)
    yield from _limits(below)


def _limits(below: Path) -> Iterator[Comparison]:
    still = train(below, table(), MLP(width=3), SGD(lr=1e-7), checkpoints=6)
    short = still.estimate("source", solver="exact").values
    final = plain.gradients(still, still.module(), still.test)
    total = still.trajectory()["lr"].sum() / len(still.train)
    tracin = total * plain.gradients(still, still.module(), still.train) @ final.T
    yield compare("little training: calibrated TracIn with the final test gradient", short, tracin, 1e-5)
    toy = converged(below, bundled("iris", 30, 8), Linear(), 0.1)
    found, limit = toy.estimate("source", solver="exact", segments=1), toy.estimate("if_exact", damping=0.0)
    yield compare("much training at a minimum: influence functions", found.values, limit.values, 1e-9)
    yield compare("the same on itself", _own(found.self_influence), _own(limit.self_influence), 1e-9)


def _own(values: object) -> Array:
    assert isinstance(values, np.ndarray)
    return values


ORACLES: dict[str, Oracle] = {"source": source}
