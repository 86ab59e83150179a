"""Ceilings of numbers that retraining gives, against correlations taken one by one."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from influx.metrics.reliability import reliability
from influx.metrics.statistics import counts_of, resample
from influx.metrics.tidy import Measured

SEEDS, UNITS = 3, 25


def of(effects: np.ndarray, counts: np.ndarray | None = None, **more: Any) -> Measured:
    counts = counts_of(resample(np.random.default_rng(5), effects.shape[1], 200)) if counts is None else counts
    return reliability("x_ceiling", effects, counts, setting="metric.x.seeds", what="rise", units="queries", **more)


def by_hand(effects: np.ndarray) -> float:
    seeds = len(effects)
    r = max(0.0, float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in combinations(effects, 2)])))
    return seeds * r / (1 + (seeds - 1) * r)


@pytest.fixture
def effects() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=UNITS) + 0.8 * rng.normal(size=(SEEDS, UNITS))


def test_it_is_the_corrected_mean_correlation_and_its_interval_that_of_repeated_units(effects: np.ndarray) -> None:
    drawn = resample(np.random.default_rng(1), UNITS, 300)
    found = of(effects, counts_of(drawn) / UNITS)  # shares do as well as counts
    assert found.value == pytest.approx(by_hand(effects))
    ends = np.quantile([by_hand(effects[:, rows]) for rows in drawn], [0.025, 0.975])
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(ends)) and found.n == UNITS
    assert ends[0] < found.value < ends[1] and "3 pairs of seeds" in found.protocol


def test_groups_are_drawn_whole(effects: np.ndarray) -> None:
    groups = np.repeat(np.arange(5), [1, 9, 4, 6, 5])
    drawn = resample(np.random.default_rng(2), 5, 200)
    found = of(effects, counts_of(drawn), groups=groups)
    taken = [np.concatenate([np.flatnonzero(groups == group) for group in row]) for row in drawn if len(set(row)) > 1]
    ends = np.quantile([by_hand(effects[:, rows]) for rows in taken], [0.025, 0.975])
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(ends), abs=0.02) and found.n == 5


def test_it_is_the_share_of_variance_that_seeds_have_in_common() -> None:
    rng = np.random.default_rng(3)
    signal, noise = rng.normal(size=20_000), 2 * rng.normal(size=(4, 20_000))
    assert of(signal + noise, np.ones((100, 20_000))).value == pytest.approx(1 / (1 + 4 / 4), abs=0.02)


def test_what_cannot_be_had_has_a_reason_instead_of_a_number(effects: np.ndarray) -> None:
    for found, status, word in (
        (of(effects[:1]), "not applicable", "metric.x.seeds=1"),
        (of(effects[:, :2]), "not applicable", "needs 3 queries, there are 2"),
        (of(np.stack([effects[0], np.full(UNITS, 0.5)])), "degenerate", "without spread under 1 of 2 seeds"),
        (of(np.where(effects == effects[0, 0], np.nan, effects)), "degenerate", "not finite"),
    ):
        assert found.status == status and word in found.note and np.isnan(found.value)
    opposed = of(np.stack([effects[0], -effects[0]]))
    assert opposed.value == 0 and "no better than by chance, correlation -1.000" in opposed.note
