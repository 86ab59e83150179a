"""Quantiles, their intervals and p-values against plain resampling and known distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from influx.engines import tails

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [2, 7, 100])
@pytest.mark.parametrize("point", [0.05, 0.5, 0.7, 0.95])
def test_a_quantile_is_the_smallest_number_with_such_a_share_at_or_below_it(size: int, point: float) -> None:
    values = RNG.normal(size=(size, 3))
    expected = np.quantile(values, point, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(tails.shares(values, (point,))[0], expected)


@pytest.mark.parametrize("point", [0.1, 0.5, 0.9])
def test_the_interval_of_a_quantile_is_that_of_all_resamples(point: float) -> None:
    values = RNG.normal(size=(60, 2))
    low, high = tails.quantile_interval(values, point)
    drawn = values[RNG.integers(60, size=(20_000, 60))]
    resampled = np.quantile(drawn, point, axis=1, method="inverted_cdf")
    for found, level in ((low, 0.025), (high, 0.975)):
        share = (resampled <= found).mean(axis=0)
        before = (resampled < found).mean(axis=0)
        assert (share > level - 0.006).all() and (before < level + 0.006).all()  # 5 deviations of a share


def test_the_interval_of_a_mean_is_a_bootstrap_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.normal(size=(400, 3)) + np.arange(3)
    whole = tails.mean_interval(values, 2000, np.random.default_rng(1))
    half = (whole[1] - whole[0]) / 2
    np.testing.assert_allclose(half, 1.96 * values.std(axis=0) / 20, rtol=0.1)
    np.testing.assert_allclose((whole[0] + whole[1]) / 2, values.mean(axis=0), atol=0.01)
    monkeypatch.setattr(tails, "CELLS_CHUNK", 400)
    np.testing.assert_allclose(tails.mean_interval(values, 2000, np.random.default_rng(1)), whole, rtol=1e-12)
    expected = [values.mean(axis=0), values.std(axis=0, ddof=1)]
    np.testing.assert_allclose(tails.moments(values), expected, rtol=1e-12)


@pytest.mark.parametrize("tail", ["upper", "lower", "two-sided"])
def test_p_values_of_usual_scores_are_at_most_a_as_often_as_a(tail: tails.Tail) -> None:
    p = np.concatenate(
        [tails.judged(RNG.normal(size=20), RNG.normal(size=99), tail, False).p_value for _ in range(200)]
    )
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level + 4 * np.sqrt(level / 4000)
    assert p.min() <= 0.02 and p.max() <= 1


@pytest.mark.parametrize(("tail", "value"), [("upper", 5.0), ("lower", -5.0), ("two-sided", -5.0), ("two-sided", 5.0)])
def test_what_is_far_out_in_its_tail_is_the_most_suspicious(tail: tails.Tail, value: float) -> None:
    usual = norm.ppf((np.arange(999) + 0.5) / 999) + 3
    scores = np.array([3.0, 3 + value, 3.5, 2.6])
    found = tails.judged(scores, usual, tail, False)
    assert found.suspicion.argmax() == found.p_value.argmin() == 1
    assert found.p_value[1] == (0.001 if tail != "two-sided" else 0.002)
    np.testing.assert_allclose(found.standardised, scores - 3, atol=0.02)


@pytest.mark.parametrize("tail", ["upper", "lower", "two-sided"])
def test_scores_that_are_not_finite_have_no_p_value_and_say_nothing_of_others(tail: tails.Tail) -> None:
    usual = RNG.normal(size=30)
    scores = np.array([0.3, np.nan, np.inf, -np.inf])
    found = tails.judged(scores, np.append(usual, [np.nan, np.inf]), tail, False)
    alone = tails.judged(scores[:1], usual, tail, False)
    assert np.isnan(found.p_value[1:]).all()
    assert found.p_value[0] == alone.p_value[0] and found.standardised[0] == alone.standardised[0]
    nothing = tails.judged(scores, np.full(3, np.nan), tail, False)
    assert np.isnan(nothing.p_value).all()
    among = tails.judged(scores, scores, tail, True)
    assert among.p_value[0] == 1 and np.isnan(among.p_value[1:]).all()


@pytest.mark.parametrize(("tail", "least"), [("upper", 0.05), ("lower", 0.05), ("two-sided", 0.1)])
def test_the_least_p_value_is_that_of_the_farthest_score(tail: tails.Tail, least: float) -> None:
    found = tails.judged(np.array([-9.0, 9.0]), RNG.normal(size=19), tail, False)
    assert found.least == found.p_value.min() == least


def test_the_interval_of_a_sample_shrinks_with_what_is_not_drawn() -> None:
    whole, size, covered, widths = RNG.normal(size=60), 40, 0, []
    for _ in range(300):
        drawn = RNG.permutation(whole)[:size, None]
        score = drawn.mean(axis=0)
        low, high = tails.narrowed(score, tails.mean_interval(drawn, 200, RNG), size, 60)
        covered += int((low <= whole.mean()).all() and (whole.mean() <= high).all())
        widths.append(float((high - low)[0]))
    assert 0.89 < covered / 300 < 0.985
    expected = 2 * 1.96 * whole.std(ddof=1) / np.sqrt(size) * np.sqrt(1 / 3)
    assert np.mean(widths) == pytest.approx(expected, rel=0.06)


def test_scores_among_themselves_and_without_a_spread() -> None:
    scores = np.array([1.0, 2.0, 2.0, 7.0])
    found = tails.judged(scores, scores, "upper", True)
    np.testing.assert_array_equal(found.p_value, [1.0, 0.75, 0.75, 0.25])
    flat = tails.judged(scores, np.full(9, 2.0), "upper", False)
    assert np.isnan(flat.standardised).all()
    np.testing.assert_array_equal(flat.p_value, [1.0, 1.0, 1.0, 0.1])
