"""Drawn sequences: what they follow, and what a plan needs of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from influx.datasets.synthetic_text import SyntheticText
from influx.errors import ConfigError

SMALL = SyntheticText(n_train=300, n_test=50, length=40, vocabulary=12, classes=3)


def test_a_token_follows_from_the_one_before_it_as_often_as_it_should() -> None:
    data = SMALL.load(0)
    x, y = data.train.x, data.train.y
    assert x.min() == 1 and x.max() == 11 and len(data.vocabulary) == 12 and set(y) == {0, 1, 2}
    for label in range(3):
        pairs = np.zeros((12, 12))
        np.add.at(pairs, (x[y == label][:, :-1], x[y == label][:, 1:]), 1)
        follows = pairs[1:, 1:].argmax(1)
        assert sorted(follows) == list(range(11))  # a permutation
        share = pairs.max(1).sum() / pairs.sum()
        assert share == pytest.approx(0.8 + 0.2 / 11, abs=0.02)


def test_the_seed_draws_everything_and_classes_differ() -> None:
    first, again, other = SMALL.load(0), SMALL.load(0), SMALL.load(1)
    assert np.array_equal(first.train.x, again.train.x) and not np.array_equal(first.train.x, other.train.x)
    assert not np.array_equal(first.train.x[:50], first.test.x)
    certain = replace(SMALL, signal=1.0).load(0)
    next_of = [dict(zip(*certain.train.x[certain.train.y == c][:, :2].T, strict=True)) for c in (0, 1)]
    assert next_of[0] != next_of[1]


def test_a_plan_has_sizes_without_memory() -> None:
    assert SMALL.describe() is None
    large = replace(SMALL, n_train=10_000_000, vocabulary=50257, classes=2).describe()
    assert large is not None and large.described and large.train.x.shape == (10_000_000, 40)
    assert large.train.x.strides == (0, 0) and large.n_outputs == 2


@pytest.mark.parametrize(
    "change", [{"length": 1}, {"vocabulary": 2}, {"classes": 301}, {"signal": 1.5}, {"n_test": 0}, {"n_train": None}]
)
def test_a_size_that_cannot_be_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"dataset.{next(iter(change))}"):
        replace(SMALL, **change)
