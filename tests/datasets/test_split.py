"""Apportionment and stratification against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from influx.datasets.split import apportion, split_rows, subset_rows


@pytest.mark.parametrize("total", [0, 1, 7, 30, 59])
def test_apportionment_is_within_one_of_the_exact_quota(total: int) -> None:
    counts = np.array([1, 3, 20, 35])
    given = apportion(counts, total)
    assert given.sum() == total and (given <= counts).all()
    assert (np.abs(given - total * counts / counts.sum()) < 1).all()


def test_apportionment_gives_the_largest_remainders_first() -> None:
    assert apportion(np.array([50, 30, 20]), 7).tolist() == [4, 2, 1]  # quotas 3.5, 2.1, 1.4


@pytest.mark.parametrize("seed", range(20))
def test_every_class_can_be_learned_however_rare(seed: int) -> None:
    y = np.repeat([0, 1, 2], [2, 3, 40])
    settings = {"name": "t", "classes": ("a", "b", "c"), "n_train": 20, "n_test": 25, "test_fraction": 0.5}
    train, test = split_rows(y, 45, seed=seed, **settings)  # type: ignore[arg-type]
    assert set(y[train]) == {0, 1, 2} and len(train) == 20 and len(test) == 25
    assert not np.intersect1d(train, test).size


def test_the_smallest_training_set_has_one_instance_of_each_class() -> None:
    y = np.repeat([0, 1, 2], [2, 3, 40])
    settings = {"name": "t", "classes": ("a", "b", "c"), "n_train": 3, "n_test": 5, "test_fraction": 0.5}
    for seed in range(5):
        assert sorted(y[split_rows(y, 45, seed=seed, **settings)[0]]) == [0, 1, 2]  # type: ignore[arg-type]
        rows = subset_rows(y, 45, 3, part="train", name="t", n_classes=3, seed=seed)
        assert sorted(y[rows]) == [0, 1, 2]


def test_regression_rows_train_or_test_but_not_both() -> None:
    settings = {"name": "t", "classes": (), "n_train": 12, "n_test": 8, "test_fraction": 0.5}
    train, test = split_rows(None, 20, seed=0, **settings)  # type: ignore[arg-type]
    assert sorted([*train, *test]) == list(range(20))


def test_each_row_is_as_likely_as_any_other_to_be_tested() -> None:
    tested = np.zeros(40)
    for seed in range(400):
        settings = {"name": "t", "classes": (), "n_train": None, "n_test": None, "test_fraction": 0.25}
        tested[split_rows(None, 40, seed=seed, **settings)[1]] += 1  # type: ignore[arg-type]
    assert tested.sum() == 4000
    # Binomial(400, 1/4): mean 100, deviation 8.7; 40 rows stay within 4.5 deviations but for 3 cases in 10,000.
    assert np.abs(tested - 100).max() < 39


def test_a_subset_of_a_given_part_is_stratified() -> None:
    y = np.repeat(np.arange(10), 30)
    rows = subset_rows(y, 300, 55, part="train", name="t", n_classes=10, seed=0)
    assert set(np.bincount(y[rows])) == {5, 6} and (np.diff(rows) > 0).all()
