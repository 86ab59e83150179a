"""Curves collect what every point of the training contributes, within bounds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from influx.engines import curves
from influx.engines.curves import Curves
from influx.oracles import toys

N, M, STEPS = 30, 4, [0, 2, 5, 9, 14, 20]
DATA = toys.table(n_train=N, n_test=M)
TERMS = np.random.default_rng(0).normal(size=(len(STEPS), N, M))
OWN = np.random.default_rng(1).normal(size=(len(STEPS), N))


def collected(tests: int, rows: int = N, columns: int = M) -> pd.DataFrame:
    made = Curves(DATA.train, DATA.test, STEPS, tests)
    for c, step in enumerate(STEPS):
        for i in range(0, N, rows):
            part = slice(i, min(i + rows, N))
            made.add_own(step, part, OWN[c, part])
            for j in range(0, M, columns):
                block = slice(j, min(j + columns, M))
                made.add(step, part, block, TERMS[c, part, block] / 2, 2.0)
    return made.table()


def test_rows_without_a_test_instance_hold_the_mean_over_all_and_self_influence() -> None:
    table = collected(2)
    means = table[table["test_id"].isna()]
    assert np.allclose(means["influence"], TERMS.mean(2).ravel(), rtol=0, atol=1e-14)
    assert np.allclose(means["self_influence"], OWN.ravel(), rtol=0, atol=0)
    assert means["step"].tolist() == np.repeat(STEPS, N).tolist()
    assert means["train_id"].tolist() == np.tile(DATA.train.ids, len(STEPS)).tolist()


def test_the_first_test_instances_have_the_curves_of_their_strongest_instances() -> None:
    table = collected(2)
    assert table["test_id"].dtype == "Int64"
    assert table["test_id"].dropna().unique().tolist() == DATA.test.ids[:2].tolist()
    for column, test_id in enumerate(DATA.test.ids[:2]):
        part = table[table["test_id"] == test_id]
        order = np.argsort(TERMS[:, :, column].sum(0))
        assert set(part["train_id"]) == set(DATA.train.ids[[*order[:5], *order[-5:]]])
        total = part.groupby("train_id")["influence"].sum()
        expected = pd.Series(TERMS[:, :, column].sum(0), DATA.train.ids)
        assert np.allclose(total, expected[total.index]) and part["self_influence"].isna().all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 3)])
def test_blocks_do_not_matter(rows: int, columns: int) -> None:
    pd.testing.assert_frame_equal(collected(3, rows, columns), collected(3), rtol=1e-12, atol=1e-14)


def test_no_test_instances_and_more_than_there_are() -> None:
    assert collected(0)["test_id"].isna().all()
    assert collected(9)["test_id"].nunique() == M


def test_neighbouring_points_are_summed_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "NUMBERS", 1)
    monkeypatch.setattr(curves, "FEWEST", 3)
    means = collected(1).query("test_id.isna()")
    assert means["step"].unique().tolist() == [0, 5, 14]
    expected = TERMS.mean(2).reshape(3, 2, N).sum(1)
    assert np.allclose(means["influence"].to_numpy().reshape(3, N), expected, rtol=0, atol=1e-14)


def test_self_influence_is_missing_where_there_is_none() -> None:
    made = Curves(DATA.train, DATA.test, [0], 1)
    made.add(0, slice(0, N), slice(0, M), TERMS[0])
    assert made.table()["self_influence"].isna().all()
