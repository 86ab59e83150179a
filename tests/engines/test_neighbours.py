"""Order by distance with ties by id, and values in that order: all subsets, sums, wherever instances stand."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom

from influx.engines import neighbours
from influx.engines.neighbour_games import Coalitions, NeighbourGame, knn_shapley
from influx.engines.neighbours import Neighbours
from influx.oracles import neighbours as plain
from influx.problem import Split

SEMIVALUES = {
    plain.shapley: Coalitions(),
    plain.banzhaf: Coalitions(alpha=None),
    plain.beta_4_2: Coalitions(alpha=4.0, beta=2.0),
}
GAMES = [(3, "fixed_k"), (3, "soft"), (0, "fixed_k")]


def split(n: int, seed: int, classes: int = 3, grid: bool = False) -> Split:
    """Random instances; on a grid of integers many distances are equal."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (n, 4)).astype(float) if grid else rng.normal(size=(n, 4))
    y = rng.integers(classes, size=n) if classes else rng.normal(size=n)
    return Split(x=x, y=y, ids=rng.permutation(10 * n)[:n])


def ranks(train: Split, test: Split, **settings: Any) -> np.ndarray:
    """Rank of each training instance for each test instance."""
    out = np.full((len(train), len(test)), -1.0)
    ordered = Neighbours(train, **settings)
    return ordered.fill(test.x, lambda order, rows: np.broadcast_to(np.arange(order.shape[1]) + 1.0, order.shape), out)


def sorted_ranks(train: Split, test: Split) -> np.ndarray:
    """The same by sorting pairs of distance and id."""
    found = np.empty((len(train), len(test)))
    for j, point in enumerate(test.x):
        found[np.lexsort((train.ids, ((train.x - point) ** 2).sum(axis=1))), j] = np.arange(len(train)) + 1
    return found


@pytest.mark.parametrize("grid", [False, True])
def test_instances_are_ordered_by_distance_then_id(grid: bool) -> None:
    train, test = split(300, 0, grid=grid), split(20, 1, grid=grid)
    assert np.array_equal(ranks(train, test), sorted_ranks(train, test))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_copies_are_ordered_by_id_wherever_they_stand(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    product_of, rng = torch.mm, np.random.default_rng(0)

    def rounding_by_place(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
        """As some libraries do, here by more than they would."""
        product_of(left, right, out=out).mul_(1 + 1e-9 * torch.from_numpy(rng.normal(size=out.shape)))

    monkeypatch.setattr(torch, "mm", rounding_by_place)
    x = np.repeat(rng.normal(size=(50, 37)) + 100.0, 5, axis=0)  # far from 0, so that products round
    train = Split(x=x, y=rng.integers(3, size=250), ids=rng.permutation(250))
    test = Split(x=rng.normal(size=(11, 37)) + 100.0, y=rng.integers(3, size=11), ids=np.arange(11))
    order = rng.permutation(250)
    expected = ranks(train, test, metric=metric)
    assert np.array_equal(ranks(train.take(order), test, metric=metric), expected[order])
    for copies in train.ids.reshape(50, 5).argsort(axis=1) + 5 * np.arange(50)[:, None]:
        assert (np.diff(expected[copies], axis=0) == 1).all()


def test_the_nearest_are_the_first_of_all() -> None:
    train, test = split(300, 0, grid=True), split(20, 1, grid=True)
    everything = ranks(train, test)
    assert np.array_equal(ranks(train, test, nearest=7), np.where(everything <= 7, everything, 0))


def test_more_instances_than_sixteen_bits() -> None:
    train, test = split(70_000, 0), split(3, 1)
    found = ranks(train, test)
    for j, point in enumerate(test.x):
        distances = np.empty(len(train))
        distances[found[:, j].astype(int) - 1] = ((train.x - point) ** 2).sum(axis=1)
        assert (np.diff(distances) >= -1e-9 * distances[1:]).all()


@pytest.mark.fault(23, "similarity zero, counted")
def test_cosine_is_that_of_unit_vectors_and_zero_for_zeros() -> None:
    train, test = split(40, 0), split(5, 1)
    train.x[7] = 0
    similar = (train.x / np.maximum(np.linalg.norm(train.x, axis=1), 1e-300)[:, None]) @ test.x.T
    expected = np.argsort(np.argsort(-similar, axis=0, kind="stable"), axis=0) + 1.0
    assert np.array_equal(ranks(train, test, metric="cosine"), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_and_threads_do_not_matter(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = split(300, 0), split(50, 1)
    expected = knn_shapley(train, test, k=4, classes=3)
    before = torch.get_num_threads()
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 8 * 300 * 11)
    monkeypatch.setattr(neighbours, "ROW_BYTES", 8 * 300 * 2)
    try:
        torch.set_num_threads(threads)
        assert np.array_equal(knn_shapley(train, test, k=4, classes=3), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("n", "k"), list(product((1, 2, 3, 5, 7), range(1, 9))))
def test_values_are_those_of_all_subsets(n: int, k: int) -> None:
    rng = np.random.default_rng(10 * n + k)
    for (classes, utility), (weight, coalitions) in product(GAMES, SEMIVALUES.items()):
        y = rng.integers(classes, size=n) if classes else rng.normal(size=n)
        target = rng.integers(classes, size=1) if classes else rng.normal(size=1)
        game = NeighbourGame(train=y, test=target, k=k, classes=classes, utility=utility, coalitions=coalitions)
        found = game.semivalues(np.arange(n)[None], np.array([0]))[0]
        expected = plain.values(y.tolist(), target[0].item(), k, utility, classes, weight)
        assert np.abs(found - expected).max() < 1e-13


@pytest.mark.parametrize(("classes", "utility"), GAMES)
@pytest.mark.parametrize("k", [1, 5, 400])
def test_shapley_values_add_up_to_the_utility_of_all(classes: int, utility: str, k: int) -> None:
    train, test = split(300, 0, classes), split(20, 1, classes)
    values = knn_shapley(train, test, k=k, classes=classes, utility=utility)
    game = NeighbourGame(train=train.y, test=test.y, k=k, classes=classes, utility=utility)  # type: ignore[arg-type]
    nearest = np.argsort(sorted_ranks(train, test), axis=0).T
    whole = [
        plain.utility(train.y[order].tolist(), target, k, utility, classes)
        for order, target in zip(nearest, test.y, strict=True)
    ]
    assert np.abs(values.sum(axis=0) - (np.array(whole) - game.empty)).max() < 1e-12


@pytest.mark.parametrize(("count", "power"), [(1, 0), (4, 0), (30, 0), (0, 1), (3, 1), (30, 1)])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (16.0, 1.0), (0.5, 3.0), None])
def test_chances_are_integrals_over_the_probability_of_membership(
    count: int, power: int, shape: tuple[float, float] | None
) -> None:
    coalitions = Coalitions(alpha=None) if shape is None else Coalitions(alpha=shape[0], beta=shape[1])
    for m in (0, 1, 5, 40):

        def chance(p: float, m: int = m) -> float:
            return float(p**power * binom.cdf(count - 1, m, p))

        law = None if shape is None else beta(shape[1], shape[0])
        expected = chance(0.5) if law is None else law.expect(chance, epsabs=1e-12)
        assert coalitions.fewer(count, power, 40)[m] == pytest.approx(expected, abs=1e-9)


def test_beta_1_1_by_the_recursion_is_its_closed_form() -> None:
    nearly = Coalitions(alpha=1.0, beta=1.0 + 1e-15)
    for count, power in ((3, 0), (700, 0), (3, 1), (700, 1)):
        assert np.abs(nearly.fewer(count, power, 20_000) - Coalitions().fewer(count, power, 20_000)).max() < 1e-11
