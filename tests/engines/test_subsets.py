"""How often groups of instances are together in random subsets (m of n hold g with about (m/n)^g)."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from influx.engines import subsets

N, COUNT = 20, 40_000


@pytest.mark.parametrize("size", [4, 10, 15])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_group_is_whole_in_a_subset_of_one_size_about_as_often_as_by_chance(size: int, group: int) -> None:
    masks = subsets.fixed_size(np.arange(N), size, COUNT, np.random.default_rng(size))
    drawn = np.random.default_rng(group).permutation(list(combinations(range(N), group)))[:30]
    share = masks[:, drawn].all(axis=2).mean(axis=0)
    exact = comb(N - group, size - group) / comb(N, size)
    error = np.sqrt(exact * (1 - exact) / COUNT)
    assert np.abs(share - exact).max() < 4.5 * error
    assert exact <= (size / N) ** group + 1e-12  # exactly that for one instance, less for several


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_group_of_independent_instances_is_whole_by_the_power_of_the_chance(group: int) -> None:
    masks = subsets.bernoulli(np.arange(N), 0.6, COUNT, np.random.default_rng(0))
    drawn = np.random.default_rng(group).permutation(list(combinations(range(N), group)))[:30]
    share, exact = masks[:, drawn].all(axis=2).mean(axis=0), 0.6**group
    assert np.abs(share - exact).max() < 4.5 * np.sqrt(exact * (1 - exact) / COUNT)


def test_some_are_drawn_by_their_ids_and_fewer_are_among_more() -> None:
    ids, order = np.arange(100, 130), np.random.default_rng(5).permutation(30)
    rows = np.arange(30)
    few, more = (ids[subsets.some(ids, rows, count, np.random.default_rng(1))] for count in (5, 12))
    moved = ids[order][subsets.some(ids[order], rows, 12, np.random.default_rng(1))]
    assert len(few) == 5 and set(few) < set(more) and set(moved) == set(more)
    assert subsets.some(ids, rows[3:5], 9, np.random.default_rng(1)).tolist() == [3, 4]
