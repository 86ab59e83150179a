"""Rare instances, and rare, mislabeled and duplicated ones together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from influx.datasets.bundled import Bundled
from influx.datasets.corruption.label_noise import LabelNoise
from influx.datasets.corruption.memorable import Memorable
from influx.datasets.corruption.rare import Rare
from influx.datasets.digits import Digits
from influx.errors import ConfigError, IncompatibleError
from influx.metrics.memorised import kinds_of
from influx.problem import Data


@pytest.fixture(scope="module")
def digits() -> Data:
    return Digits(n_train=300, n_test=100).load(0)


def test_all_but_a_few_of_one_class_are_removed(digits: Data) -> None:
    noisy = LabelNoise(fraction=0.1).apply(digits, 0)
    data = Rare(target_class=4, keep=7).apply(noisy, 0)
    of_class = noisy.train.y == 4
    assert (data.train.y == 4).sum() == 7 and len(data.train) == 300 - of_class.sum() + 7
    np.testing.assert_array_equal(data.flags["rare"], data.train.y == 4)
    rows = np.searchsorted(digits.train.ids, data.train.ids)  # ids increase
    np.testing.assert_array_equal(data.train.x, digits.train.x[rows])
    np.testing.assert_array_equal(data.display["train"], digits.display["train"][rows])
    np.testing.assert_array_equal(data.flags["mislabeled"], noisy.flags["mislabeled"][rows])
    assert data.test.x is digits.test.x and "other 7 are rare" in data.notes[-1]


def test_the_seed_decides_which_stay(digits: Data) -> None:
    kept = [Rare(keep=7).apply(digits, seed).train.ids.tolist() for seed in (3, 3, 4)]
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize(
    ("corruption", "words"),
    [
        (Rare(keep=200), r"corruption.keep=200 removes none of the \d+ training instances of class '0'"),
        (Rare(target_class="ten"), "digits has no class 'ten'"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(corruption: Rare, words: str, digits: Data) -> None:
    with pytest.raises(ConfigError, match=words):
        corruption.apply(digits, 0)


def test_regression_and_a_single_class_are_refused(digits: Data) -> None:
    with pytest.raises(IncompatibleError, match="needs classes"):
        Rare().apply(Bundled(which="diabetes").load(0), 0)
    ones = replace(digits, train=digits.train.take(digits.train.y == 1))
    with pytest.raises(ConfigError, match="all training instances are of class '1'"):
        Rare(target_class=1).apply(ones, 0)


@pytest.mark.parametrize("keep", [0, True, 2.5])
def test_a_number_to_keep_that_is_none_is_refused(keep: object) -> None:
    with pytest.raises(ConfigError, match=r"corruption\.keep must be a whole number of at least 1"):
        Rare(keep=keep)  # type: ignore[arg-type]


def test_all_three_kinds_are_there_together(digits: Data) -> None:
    data = Memorable(target_class=3, keep=8, mislabeled=0.1, duplicates=0.2).apply(digits, 0)
    n, original = len(data.train), data.flags["original_label"]
    assert data.flags["rare"].sum() == 8 and data.flags["mislabeled"].sum() == round(0.1 * (n - 8))
    assert data.flags["duplicate"].sum() == round(0.2 * (n - 8 - data.flags["mislabeled"].sum()))
    kinds = kinds_of(data.flags, data.train.ids)
    assert set(kinds) == {"rare", "mislabeled", "duplicated"}
    assert np.sum(list(kinds.values()), axis=0).max() == 1  # nothing is of two kinds
    np.testing.assert_array_equal(data.flags["mislabeled"], data.train.y != original)
    assert (data.train.y[data.flags["rare"]] == 3).all()
    copies = np.flatnonzero(data.flags["duplicate"])
    source = np.searchsorted(data.train.ids, data.flags["duplicate_of"][copies])
    np.testing.assert_array_equal(data.train.x[copies], data.train.x[source])
    np.testing.assert_array_equal(data.train.y[copies], data.train.y[source])
    assert (data.flags["duplicate_of"][~data.flags["duplicate"]] == -1).all()
    untouched = ~data.flags["duplicate"]
    rows = np.searchsorted(digits.train.ids, data.train.ids)
    np.testing.assert_array_equal(data.train.x[untouched], digits.train.x[rows][untouched])
    np.testing.assert_array_equal(data.display["train"][untouched], digits.display["train"][rows][untouched])
    np.testing.assert_array_equal(data.display["train"][copies], data.display["train"][source])
    assert len(data.notes) == len(digits.notes) + 3


def test_settings_of_the_parts_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match=r"corruption\.duplicates must be a number between 0 and 1"):
        Memorable(duplicates=1.5)
    with pytest.raises(ConfigError, match=r"corruption\.mislabeled must be a number between 0 and 1"):
        Memorable(mislabeled=0)
    with pytest.raises(ConfigError, match=r"corruption\.keep"):
        Memorable(keep=0)


@pytest.mark.parametrize("setting", ["mislabeled", "duplicates"])
def test_a_share_of_nothing_is_refused_by_its_own_name(setting: str, digits: Data) -> None:
    with pytest.raises(ConfigError, match=rf"corruption\.{setting}=0\.001 selects none of \d+ training instances"):
        Memorable(target_class=3, keep=8, **{setting: 0.001}).apply(digits, 0)
