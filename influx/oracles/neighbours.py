"""Nearest-neighbour surrogates, by the definitions: all subsets, all deletions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, product
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.models.mlp import MLP
from influx.oracles import complexity, plain
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train

EXACT = 1e-12
OTHERS = {"features": "raw", "metric": "cosine"}  # than the default settings
Score = Callable[[list[Any], Any], Array]  # of labels, nearest first, for a target
Weight = Callable[[int, int], float]  # of one set of s instances among the n - 1 others


def shapley(s: int, n: int) -> float:
    """1 / (n C(n - 1, s))."""
    return 1 / (n * comb(n - 1, s))


def banzhaf(s: int, n: int) -> float:
    """All sets alike."""
    return 0.5 ** (n - 1)


def beta_4_2(s: int, n: int) -> float:
    """B(s + 2, n - 1 - s + 4) / B(4, 2) in rising factorials."""
    return rising(2, s) * rising(4, n - 1 - s) / rising(6, n - 1)


def rising(x: float, count: int) -> float:
    """The rising factorial x (x + 1) … (x + count - 1)."""
    return float(np.prod([x + i for i in range(count)]))


def utility(found: list[Any], target: Any, k: int, kind: str, classes: int) -> float:
    """What the k-nearest-neighbour predictor is worth when ``found`` are the labels in a set, nearest first."""
    near = found[:k]
    if classes == 0:
        return -((float(sum(near)) / k - float(target)) ** 2)
    hits = sum(int(label == target) for label in near)
    if kind == "fixed_k":
        return hits / k
    return hits / len(near) if near else 1 / classes


def values(labels: list[Any], target: Any, k: int, kind: str, classes: int, weight: Weight) -> Array:
    """Semivalue of each of the labels, nearest first, from the utility of every subset."""
    n = len(labels)
    sets = [members for s in range(n + 1) for members in combinations(range(n), s)]
    v = {members: utility([labels[i] for i in members], target, k, kind, classes) for members in sets}
    found = np.zeros(n)
    for members in sets:
        for i in members:
            rest = tuple(other for other in members if other != i)
            found[i] += weight(len(rest), n) * (v[members] - v[rest])
    return found


def removals(labels: list[Any], target: Any, k: int, kind: str, classes: int) -> Array:
    """Utility of all less that of all but one, for each."""
    whole = utility(labels, target, k, kind, classes)
    return np.array(
        [whole - utility(labels[:i] + labels[i + 1 :], target, k, kind, classes) for i in range(len(labels))]
    )


def representations(toy: Toy, features: str) -> tuple[Array, Array]:
    """Features of training and test instances."""
    if features == "raw":
        return toy.train.x.astype(np.float64), toy.test.x.astype(np.float64)
    module = toy.module()
    left, right = (plain.features(module, toy.tensors(split)[0]) for split in (toy.train, toy.test))
    return left, right


def nearest_first(left: Array, point: Array, ids: NDArray[np.int64], metric: str) -> list[int]:
    """Rows by distance to a point, then by id."""

    def distance(x: Array) -> float:
        cosine = metric == "cosine"
        return float(1 - x @ point / np.sqrt((x @ x) * (point @ point)) if cosine else ((x - point) ** 2).sum())

    return sorted(range(len(left)), key=lambda i: (round(distance(left[i]), 9), ids[i]))


def expected(toy: Toy, score: Score, features: str, metric: str) -> tuple[Array, Array]:
    """Values (n, m) and of each training instance on itself (n,)."""
    left, right = representations(toy, features)
    points = [*zip(right, toy.test.y.tolist(), strict=True), *zip(left, toy.train.y.tolist(), strict=True)]
    columns = np.empty((len(left), len(points)))
    for j, (point, target) in enumerate(points):
        order = nearest_first(left, point, toy.train.ids, metric)
        columns[order, j] = score([toy.train.y[i].item() for i in order], target)
    return columns[:, : len(right)], np.diag(columns[:, len(right) :])


def _toys(below: Path, n: int) -> Iterator[tuple[str, Toy, int, list[str]]]:
    yield "classes", train(below, table(n_train=n), MLP(width=5)), 3, ["fixed_k", "soft"]
    yield "regression", train(below, table("regression", n_train=n), MLP(width=5)), 0, ["fixed_k"]


def _compared(name: str, what: str, toy: Toy, score: Score, **settings: Any) -> Iterator[Comparison]:
    features, metric = settings.get("features", "penultimate"), settings.get("metric", "l2")
    values, own = expected(toy, score, features, metric)
    found = toy.estimate(name, own=True, **settings)
    yield compare(what, found.values, values, EXACT)
    assert found.self_influence is not None
    yield compare(f"{what}, on itself", found.self_influence, own, EXACT)


def knn_shapley(below: Path) -> Iterator[Comparison]:
    """All 2^n subsets."""
    semivalues: list[tuple[Weight, dict[str, Any]]] = [
        (shapley, {}),
        (banzhaf, {"semivalue": "banzhaf"}),
        (beta_4_2, {"semivalue": "beta", "alpha": 4.0, "beta": 2.0}),
    ]
    for kind, toy, classes, utilities in _toys(below, 8):
        for name, k, (weight, settings) in product(utilities, (1, 3, 10), semivalues):
            score = partial(values, k=k, kind=name, classes=classes, weight=weight)
            what = f"all subsets, {kind}, {name}, k={k}, {weight.__name__}"
            yield from _compared("knn_shapley", what, toy, score, k=k, utility=name, **settings)
        score = partial(values, k=3, kind="fixed_k", classes=classes, weight=shapley)
        for setting, value in OTHERS.items():
            yield from _compared("knn_shapley", f"all subsets, {kind}, {value}", toy, score, k=3, **{setting: value})


def knn_loo(below: Path) -> Iterator[Comparison]:
    """All n deletions."""
    for n in (2, 9):
        for kind, toy, classes, utilities in _toys(below, n):
            what = f"all deletions, {n} instances, {kind}"
            for name, k in product(utilities, (1, 3, 8, 10)):
                score = partial(removals, k=k, kind=name, classes=classes)
                yield from _compared("knn_loo", f"{what}, {name}, k={k}", toy, score, k=k, utility=name)
            score = partial(removals, k=3, kind="fixed_k", classes=classes)
            for setting, value in OTHERS.items():
                yield from _compared("knn_loo", f"{what}, {value}", toy, score, k=3, **{setting: value})


ORACLES = {"knn_loo": knn_loo, "knn_shapley": knn_shapley, **complexity.ORACLES}
