"""Leave-one-out of the nearest-neighbour surrogate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.problem import Split


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(n_train=40), MLP(width=5))


def shown(toy: Toy, x: list[float], y: list[int]) -> Toy:
    """The instances at these places of a line, seen from 0 by one test instance of class 1."""
    data = toy.problem.data
    train = Split(
        x=np.array(x, np.float32)[:, None] * np.eye(1, 3, dtype=np.float32), y=np.array(y), ids=np.arange(len(x))
    )
    test = Split(x=np.zeros((1, 3), np.float32), y=np.array([1]), ids=np.arange(1))
    return toy.with_data(replace(data, train=train, test=test))


def values(toy: Toy, x: list[float], y: list[int], k: int) -> list[float]:
    return list(shown(toy, x, y).estimate("knn_loo", features="raw", k=k).values[:, 0])


def test_a_copy_takes_the_place_of_what_is_removed(toy: Toy) -> None:
    assert values(toy, [1, 1, 2], [1, 1, 0], k=1) == [0, 0, 0]


def test_an_instance_can_lower_the_utility_and_not_only_raise_it(toy: Toy) -> None:
    assert values(toy, [1, 2, 3], [0, 1, 1], k=2) == [-0.5, 0, 0]
    assert values(toy, [1, 2, 3], [1, 1, 0], k=2) == [0.5, 0.5, 0]


@pytest.mark.fault(26, "the smaller id is nearer")
def test_of_equally_distant_instances_the_one_with_the_smaller_id_is_nearer(toy: Toy) -> None:
    assert values(toy, [1, -1], [1, 0], k=1) == [1, 0]
    assert values(toy, [1, -1], [0, 1], k=1) == [-1, 0]


def test_no_more_than_k_instances_of_one_sign_have_an_effect(toy: Toy) -> None:
    found = toy.estimate("knn_loo", k=3).values
    assert ((found != 0).sum(axis=0) <= 3).all() and (found != 0).any()
    assert all(len(set(np.sign(column[column != 0]))) <= 1 for column in found.T)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_ties_are_ordered_as_for_shapley_values(k: int, toy: Toy) -> None:
    rng = np.random.default_rng(0)
    grid = Split(x=rng.integers(0, 2, (40, 3)).astype(np.float32), y=rng.integers(3, size=40), ids=rng.permutation(40))
    seen = toy.with_data(replace(toy.problem.data, train=grid, test=replace(toy.test, x=toy.test.x.round())))
    removed = seen.estimate("knn_loo", features="raw", k=k).values
    shapley = seen.estimate("knn_shapley", features="raw", k=k).values
    for j, label in enumerate(seen.test.y):
        order = np.lexsort((grid.ids, np.square(grid.x - seen.test.x[j]).sum(axis=1)))
        hit = np.append((grid.y[order] == label).astype(float), 0.0)
        ranks = np.arange(1, 41)
        expected = np.where(ranks <= k, hit[:-1] - (hit[k] if k < 40 else 0.0), 0.0) / k
        assert np.abs(removed[order, j] - expected).max() < 1e-15
        steps = (hit[:-1] - hit[1:]) / np.maximum(ranks, k)
        assert np.abs(shapley[order, j] - np.cumsum(steps[::-1])[::-1]).max() < 1e-14
