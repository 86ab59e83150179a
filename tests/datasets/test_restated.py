"""Queries that restate training texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from influx.datasets.corruption.restated import Restated
from influx.errors import ConfigError, IncompatibleError
from influx.oracles import toys
from influx.problem import Split


def test_queries_keep_part_of_their_source_and_say_which_it_is() -> None:
    data = toys.tokens(n_train=300, n_test=400, length=40)
    data = replace(data, vocabulary=(*data.vocabulary[:3], *(f"w{i}" for i in range(9))))
    found = Restated(fraction=0.5, kept=0.3).apply(data, 0)
    fact, asked = found.flags["fact"], found.test_flags["fact"]
    queries = asked >= 0
    equals = np.unique(data.train.x, axis=0, return_inverse=True)[1].ravel()
    assert queries.sum() == 200 and len(set(asked[queries])) == len(set(fact) - {-1})
    assert all(len(set(equals[fact == f])) == 1 for f in asked[queries])
    source = np.array([np.flatnonzero(fact == f)[0] for f in asked[queries]])
    texts, origin = found.test.x[queries], data.train.x[source]
    words = (origin > 0) & (origin != 2)  # unknown ones as well
    np.testing.assert_array_equal(texts[~words], origin[~words])
    usual = data.train.x[(data.train.x > 0) & (data.train.x != 2)]
    by_chance = np.square(np.bincount(usual) / len(usual)).sum()
    assert (texts[words] == origin[words]).mean() == pytest.approx(0.3 + 0.7 * by_chance, abs=0.02)
    assert not np.isin(texts[words], (0, 2)).any() and (texts[words] == 1).any()
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


def test_equal_texts_state_one_fact() -> None:
    data = toys.tokens(n_train=10, n_test=10)
    x, y = (np.repeat(a, 2, 0) for a in (data.train.x, data.train.y))
    twice = replace(data, train=Split(x=x, y=y, ids=np.arange(20)))
    found = Restated(fraction=0.5).apply(twice, 0)
    fact = found.flags["fact"]
    assert (fact[::2] == fact[1::2]).all() and set(found.test_flags["fact"]) == set(fact) | {-1}


def test_unknown_words_do_not_give_the_source_away() -> None:
    rng, data = np.random.default_rng(0), toys.tokens(n_train=300, n_test=200, length=24)
    x = np.where(rng.random(data.train.x.shape) < 0.13, 1, rng.integers(3, 12, data.train.x.shape))  # of one length
    found = Restated(fraction=1.0, kept=0.01).apply(replace(data, train=replace(data.train, x=x)), 0)
    agreeing = ((found.test.x == 1)[:, None] == (x == 1)).sum(2)
    source = np.array([np.flatnonzero(found.flags["fact"] == f)[0] for f in found.test_flags["fact"]])
    above = (agreeing > agreeing[np.arange(200), source][:, None]).sum(1)
    equal = (agreeing == agreeing[np.arange(200), source][:, None]).sum(1)
    mrr = np.mean(2 / (2 * above + equal + 1))
    assert mrr < 0.04  # ranks by where unknown words are; at random 0.021


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="corruption=restated needs texts"):
        Restated().apply(toys.table(), 0)
    with pytest.raises(ConfigError, match=r"corruption\.kept"):
        Restated(kept=0.0)
