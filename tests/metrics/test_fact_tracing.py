"""Fact tracing, against ranks counted by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.fact_tracing import NAMES, FactTracing, reciprocal
from influx.metrics.tidy import tables_of
from influx.streams import stream

N, M = 30, 8
RNG = np.random.default_rng(0)
STATED = np.where(np.arange(N) < 9, np.arange(N) % 6, -1)  # facts 0, 1, 2 are stated twice
ASKED = np.array([0, 1, 4, 5, 7, -1, -1, 0])  # nobody states fact 7
VALUES = RNG.normal(size=(N, M))


def judged(values: np.ndarray = VALUES, flags: Any = True, **settings: Any) -> pd.DataFrame:
    data = SimpleNamespace(flags={"fact": STATED} if flags else {}, test_flags={"fact": ASKED} if flags else {})
    run = SimpleNamespace(problem=SimpleNamespace(data=data), rng=lambda purpose: stream(0, purpose))
    found = FactTracing(**{"n_boot": 100, "k": 5} | settings).evaluate(Influence(values=values), run)
    found.attrs["kept"] = tables_of(found)
    return found


def by_hand(values: np.ndarray, k: int) -> tuple[list[float], list[float], list[float]]:
    reciprocals, recalls, firsts = [], [], []
    for j in (0, 1, 2, 3, 7):
        order = sorted(range(N), key=lambda i: -values[i, j])
        places = [order.index(i) + 1 for i in range(N) if STATED[i] == ASKED[j]]
        reciprocals.append(1 / min(places))
        recalls.append(np.mean([place <= k for place in places]))
        firsts.append(min(places) == 1)
    return reciprocals, recalls, firsts


def test_ranks_are_those_counted_by_hand() -> None:
    values = VALUES.copy()
    values[STATED == 4, 2] = 9.0  # found at once
    found = judged(values).set_index("metric")
    for name, numbers in zip(NAMES, by_hand(values, 5), strict=True):
        assert found.value[name] == pytest.approx(np.mean(numbers))
    assert (found.n == 5).all() and found.protocol.str.contains("5 of 8 test instances are queries").all()
    curve = judged(values).attrs["kept"]["fact_recall"].set_index("depth").recall
    assert curve[30] == 1 and curve[10] == pytest.approx(np.mean(by_hand(values, 10)[1]))


def test_chance_is_what_random_rankings_give() -> None:
    rng = np.random.default_rng(1)
    for n, count in ((7, 1), (7, 3), (4, 4)):
        drawn = [min(rng.permutation(n)[:count]) + 1 for _ in range(4000)]
        assert reciprocal(n, count) == pytest.approx(np.mean(1 / np.array(drawn)), abs=0.02)
    note = judged().set_index("metric").note
    assert note["fact_recall"] == f"random ranking: {5 / N:.4f}; 1 of 6 queries have no statement with a score"


def test_equal_values_are_ordered_at_random() -> None:
    values, rng = np.round(VALUES), np.random.default_rng(2)
    drawn = np.zeros((3, 400))
    for column in range(drawn.shape[1]):
        order = values + 1e-6 * rng.random(values.shape)
        drawn[:, column] = [np.mean(numbers) for numbers in by_hand(order, 5)]
    found = judged(values).set_index("metric")
    np.testing.assert_allclose(found.value[list(NAMES)], drawn.mean(1), atol=0.03)


def test_equal_texts_at_the_top_are_found() -> None:
    values = (STATED[:, None] == ASKED).astype(float)
    found = judged(values, k=1).set_index("metric")
    assert found.value["fact_first"] == found.value["fact_mrr"] == 1
    assert found.ci_low["fact_first"] == pytest.approx(5 / (5 + 1.96**2), rel=1e-3)  # Wilson at 1
    assert "Wilson" in found.protocol["fact_first"] and "bootstrap" in found.protocol["fact_recall"]
    assert judged(-values).set_index("metric").ci_high["fact_recall"] > 0.4  # none found, of five
    assert found.value["fact_recall"] == pytest.approx((3 / 2 + 2) / 5)  # two state facts 0, 0 and 1


def test_what_cannot_be_traced_says_why() -> None:
    absent = judged(flags=False)
    assert (absent.status == "not applicable").all() and absent.note.str.contains("corruption=restated").all()
    assert (judged(k=31).status == "not applicable").all()
    assert (judged(np.ones((N, M))).status == "degenerate").all()
    partly = VALUES.copy()
    partly[STATED >= 0] = np.nan  # nothing that states a fact was computed
    assert judged(partly).note.str.contains("with a score states").all()
    broken = VALUES.copy()
    broken[0, 0] = np.inf
    assert (judged(broken).n == 4).all()


@pytest.mark.parametrize("settings", [{"k": 0}, {"n_boot": 9}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"metric.fact_tracing.{next(iter(settings))}"):
        FactTracing(**settings)
