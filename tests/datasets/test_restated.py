"""Queries that restate training texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from influx.datasets.corruption.restated import Restated
from influx.errors import ConfigError, IncompatibleError
from influx.oracles import toys


def test_queries_keep_part_of_their_source_and_say_which_it_is() -> None:
    data = toys.tokens(n_train=300, n_test=400, length=40)
    data = replace(data, vocabulary=(*data.vocabulary[:3], *(f"w{i}" for i in range(9))))
    found = Restated(fraction=0.5, kept=0.3).apply(data, 0)
    fact, asked = found.flags["fact"], found.test_flags["fact"]
    queries = asked >= 0
    assert queries.sum() == 200 and len(set(asked[queries])) == 200 and (fact >= 0).sum() == 200
    source = np.array([np.flatnonzero(fact == f)[0] for f in asked[queries]])
    texts, origin = found.test.x[queries], data.train.x[source]
    words = origin > 2
    np.testing.assert_array_equal(texts[~words], origin[~words])
    by_chance = np.square(np.bincount(data.train.x[data.train.x > 2]) / (data.train.x > 2).sum()).sum()
    assert (texts[words] == origin[words]).mean() == pytest.approx(0.3 + 0.7 * by_chance, abs=0.02)
    assert (texts[words] > 2).all()
    np.testing.assert_array_equal(found.test.y[queries], data.train.y[source])
    np.testing.assert_array_equal(found.test.x[~queries], data.test.x[~queries])
    np.testing.assert_array_equal(found.train.x, data.train.x)
    assert "200 of 400" in found.notes[-1]


def test_more_queries_than_texts_share_their_facts() -> None:
    found = Restated(fraction=1.0, kept=1.0).apply(toys.tokens(n_train=5, n_test=30), 1)
    fact, asked = found.flags["fact"], found.test_flags["fact"]
    assert (asked >= 0).all()
    for row, number in enumerate(asked):
        (source,) = np.flatnonzero(fact == number)
        np.testing.assert_array_equal(found.test.x[row], found.train.x[source])


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="corruption=restated needs texts"):
        Restated().apply(toys.table(), 0)
    with pytest.raises(ConfigError, match=r"corruption\.kept"):
        Restated(kept=0.0)
