from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from influx.metrics import pooled
from influx.metrics.statistics import counts_of, interval, resample


def clustered(rng: np.random.Generator, n: int, m: int, decimals: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Cells correlated within columns, whose agreement differs from column to column."""
    scores = rng.normal(size=(n, m)) + rng.normal(size=m)
    truth = scores * rng.uniform(0, 2, size=m) + rng.normal(size=(n, m))
    return np.round(scores, decimals), np.round(truth, decimals)


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray]:
    return clustered(np.random.default_rng(0), 30, 20, decimals=1)


def everything(scores, truth, indices):
    counts, rng = counts_of(indices), np.random.default_rng(0)
    pearson, slope = pooled.pearson_and_slope(scores, truth, counts)
    return [pearson, *pooled.spearman_and_kendall(scores, truth, counts, rng), slope]


def references(scores, truth):
    x, y = scores.ravel(), truth.ravel()
    correlations = [f(x, y).statistic for f in (stats.pearsonr, stats.spearmanr, stats.kendalltau)]
    return [*correlations, stats.linregress(x, y).slope]


def test_pooled_numbers_are_those_of_scipy(cells):
    results = everything(*cells, resample(np.random.default_rng(1), 20, 100))
    np.testing.assert_allclose([r.value for r in results], references(*cells), atol=1e-12)


def test_pearson_and_slope_of_a_resample_are_exact(cells):
    indices = resample(np.random.default_rng(1), 20, 5)
    pearson, *_, slope = everything(*cells, indices)
    expected = np.array([references(cells[0][:, c], cells[1][:, c]) for c in indices])
    np.testing.assert_allclose(pearson.samples, expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(slope.samples, expected[:, 3], atol=1e-12)


@pytest.mark.parametrize("decimals", [9, 0])
@pytest.mark.parametrize("which", [1, 2])
def test_rank_correlations_of_a_resample_follow_ranking_anew(which, decimals):
    scores, truth = clustered(np.random.default_rng(2), 20, 60, decimals)
    indices = resample(np.random.default_rng(3), 60, 150)
    expected = np.array([references(scores[:, c], truth[:, c])[which] for c in indices])
    samples = everything(scores, truth, indices)[which].samples
    assert np.corrcoef(samples, expected)[0, 1] > 0.98
    assert np.std(samples) == pytest.approx(np.std(expected), rel=0.1)
    assert np.mean(samples) == pytest.approx(np.mean(expected), abs=0.2 * np.std(expected))


def test_large_matrices_estimate_kendall_from_pairs(cells, monkeypatch):
    monkeypatch.setattr(pooled, "EXACT_CELLS", 10)
    monkeypatch.setattr(pooled, "SAMPLED_PAIRS", 200_000)
    kendall = everything(*cells, resample(np.random.default_rng(1), 20, 100))[2]
    assert kendall.value == pytest.approx(references(*cells)[2], abs=0.01)  # five standard errors
    assert "200000 random pairs of 600 cells" in kendall.note


def test_intervals_cover_the_true_correlation():
    rng = np.random.default_rng(4)
    rho = 0.7
    true = [rho, 6 / np.pi * np.arcsin(rho / 2), 2 / np.pi * np.arcsin(rho), rho]  # of the bivariate normal
    hits = np.zeros(4)
    for _ in range(200):
        scores = rng.normal(size=(10, 50))
        truth = rho * scores + np.sqrt(1 - rho**2) * rng.normal(size=(10, 50))
        counts = counts_of(resample(rng, 50, 150))
        pearson, slope = pooled.pearson_and_slope(scores, truth, counts)
        ranked = pooled.spearman_and_kendall(scores, truth, counts, rng)
        bounds = [interval(result.samples) for result in (pearson, *ranked, slope)]
        hits += [low <= expected <= high for (low, high), expected in zip(bounds, true, strict=True)]
    assert (hits / 200 >= 0.90).all()
    assert (hits / 200 <= 0.99).all()
