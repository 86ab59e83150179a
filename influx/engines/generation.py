"""Instances that a density model makes, and which training instances lie nearest to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.learners.torch.fitted import TorchFitted
from influx.problem import Data, Fitted, Split
from influx.streams import normals

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Nearest:
    """The ``k`` nearest training instances, nearest first: Euclidean ``distance`` and ``rows``, both (n, k)."""

    distance: Array
    rows: Rows


@dataclass(frozen=True)
class Generated:
    """Made instances, with ids that the problem's own do not have; ``given`` says that ``y`` was asked for.

    Otherwise ``y`` is the label of the nearest training instance, which the model never saw.
    """

    split: Split
    given: bool
    nearest: Nearest


def generated(fitted: Fitted, data: Data, count: int, k: int, seed: int) -> Generated | None:
    """``count`` samples of the trained model, the same first ones whatever the count; None of models that make none.

    A module that makes some has ``sample_width`` and ``sample(normals, labels)``: expected features, or features, of so
    many standard normal numbers each. Conditional ones are asked for the classes in turn.
    """
    asked = np.arange(count) % max(len(data.classes), 1)
    made, given = _samples(fitted, data, asked, seed)
    if made is None:
        return None
    x = made.cpu().numpy().reshape(count, *data.train.x.shape[1:]).astype(data.train.x.dtype)
    ids = int(max(data.train.ids.max(), data.test.ids.max())) + 1 + np.arange(count)
    near = nearest(data.train, x, k)
    y = asked if given else data.train.y[near.rows[:, 0]]
    return Generated(Split(x=x, y=y.astype(data.train.y.dtype), ids=ids), given, near)


@torch.no_grad()
def _samples(fitted: Fitted, data: Data, asked: Rows, seed: int) -> tuple[Tensor | None, bool]:
    """Of a module, or of a density in closed form; and whether it was told the classes ``asked`` for."""

    def drawn(width: int) -> Tensor:
        return torch.from_numpy(normals(seed, "generated", np.arange(len(asked)), width))

    if not isinstance(fitted, TorchFitted):
        sample = getattr(fitted, "sample", None)
        return (None if sample is None else sample(drawn(math.prod(data.train.x.shape[1:])))), False
    module = fitted.model()
    width, sample = getattr(module, "sample_width", None), getattr(module, "sample", None)
    if width is None or sample is None:
        return None, False
    place, given = next(module.parameters()), bool(getattr(module, "labels", 0))
    return sample(drawn(int(width)).to(place), torch.from_numpy(asked).to(place.device) if given else None), given


def nearest(train: Split, x: NDArray[Any], k: int) -> Nearest:
    """The nearest training instances of others ``x`` (n, ...), which must be finite."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(_flat(train.x)).kneighbors(_flat(x))
    return Nearest(found[0], found[1].astype(np.int64))


def apart(train: Split) -> Array:
    """``(n,)`` distance of each training instance to the nearest other one."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(_flat(train.x)).kneighbors()[0]
    return np.asarray(found[:, 0], dtype=np.float64)


def different(train: Split) -> tuple[Array, int]:
    """``(n,)`` distance of each training instance to the nearest one that is not equal, and the number of copies.

    Of k equal instances k - 1 are copies. Distances are infinite where all are equal.
    """
    rows, where = np.unique(_flat(train.x) + 0.0, axis=0, return_inverse=True)  # -0 becomes 0
    copies = len(train) - len(rows)
    if len(rows) == 1:
        return np.full(len(train), np.inf), copies
    return apart(Split(x=rows, y=rows[:, 0], ids=np.arange(len(rows))))[where.ravel()], copies


def _flat(x: NDArray[Any]) -> Array:
    return np.asarray(x, dtype=np.float64).reshape(len(x), -1)
