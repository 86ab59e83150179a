from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from influx.errors import ConfigError
from influx.metrics.per_test import summarise
from influx.metrics.resampled import resampled_spearman
from influx.metrics.statistics import (
    check_resamples,
    constant_columns,
    counts_of,
    interval,
    kendall_columns,
    mean_pairwise,
    pearson_columns,
    resample,
    spearman_brown,
    spearman_columns,
    standardise,
)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    left = rng.normal(size=(40, 5))
    return np.round(left, 1), np.round(left + rng.normal(size=(40, 5)), 1)  # rounding makes ties


@pytest.mark.parametrize(
    ("columns", "reference"),
    [(pearson_columns, stats.pearsonr), (spearman_columns, stats.spearmanr), (kendall_columns, stats.kendalltau)],
)
def test_column_correlations_are_those_of_scipy(pair, columns, reference):
    expected = [reference(a, b).statistic for a, b in zip(pair[0].T, pair[1].T, strict=True)]
    np.testing.assert_allclose(columns(*pair), expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e150])
def test_correlation_does_not_depend_on_the_unit(pair, scale):
    np.testing.assert_allclose(pearson_columns(pair[0] * scale, pair[1]), pearson_columns(*pair), atol=1e-12)


def test_rounding_noise_of_float32_counts_as_constant():
    noisy = np.float32(1) + np.finfo(np.float32).eps * np.array([[0, 0], [1, 1], [0, 1e4]], dtype=np.float32)
    assert constant_columns(noisy).tolist() == [True, False]


def test_mean_pairwise_is_the_mean_over_all_pairs():
    arrays = np.random.default_rng(2).normal(size=(4, 30, 3))
    pairs = [pearson_columns(arrays[a], arrays[b]) for a in range(4) for b in range(a)]
    np.testing.assert_allclose(mean_pairwise(np.stack([standardise(a) for a in arrays])), np.mean(pairs, axis=0))


def test_spearman_brown_predicts_the_correlation_of_means():
    rng = np.random.default_rng(3)
    signal = rng.normal(size=200_000)
    first, second = (np.mean([signal + 2 * rng.normal(size=signal.size) for _ in range(4)], axis=0) for _ in "ab")
    single = 1 / (1 + 4)  # variance of the signal over that of one noisy copy
    assert spearman_brown(single, 4) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=0.01)
    assert spearman_brown(-0.2, 4) == 0


def test_counts_are_histograms_of_the_resamples():
    indices = resample(np.random.default_rng(4), 7, 20)
    np.testing.assert_array_equal(counts_of(indices), [np.bincount(row, minlength=7) for row in indices])


def test_resampled_spearman_ranks_each_resample_anew(pair):
    indices = resample(np.random.default_rng(5), 40, 6)
    result = resampled_spearman(np.stack(pair), counts_of(indices))
    expected = [[stats.spearmanr(pair[0][rows, j], pair[1][rows, j])[0] for j in range(5)] for rows in indices]
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_resampled_spearman_averages_over_pairs_of_arrays():
    arrays = np.random.default_rng(6).normal(size=(3, 25, 2))
    counts = counts_of(resample(np.random.default_rng(7), 25, 4))
    pairs = [resampled_spearman(arrays[[a, b]], counts) for a in range(3) for b in range(a)]
    np.testing.assert_allclose(resampled_spearman(arrays, counts), np.mean(pairs, axis=0), atol=1e-12)


def test_a_constant_resample_is_undefined():
    counts = np.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    result = resampled_spearman(np.arange(6.0).reshape(2, 3, 1), counts)
    assert np.isnan(result[0, 0])
    assert result[1, 0] == pytest.approx(1)


def test_interval_skips_undefined_resamples():
    assert interval(np.append(np.arange(1001.0), np.nan)) == pytest.approx((25, 975))
    assert np.isnan(interval(np.array([np.nan]))).all()


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_intervals_over_test_instances_cover_the_true_centre(centre):
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(300):
        row = summarise("r", rng.normal(0.3, 0.2, size=60), rng=rng, n_boot=200, centre=centre)
        hits += row.ci_low <= 0.3 <= row.ci_high
    assert 0.90 <= hits / 300 <= 0.99


@pytest.mark.fault(25, "no interval for a single test instance")
def test_a_single_test_instance_has_no_interval():
    row = summarise("r", np.array([0.4, np.nan]), rng=np.random.default_rng(0), n_boot=100)
    assert (row.value, row.n, row.status) == (0.4, 1, "ok")
    assert np.isnan(row.ci_low)
    assert "single test instance" in row.note


def test_too_few_resamples_are_refused():
    with pytest.raises(ConfigError, match=r"metric\.lds\.n_boot must be at least 100, got 10"):
        check_resamples("metric.lds.n_boot", 10)
