"""Where only some training instances have a truth, intervals must reach what all of them would have given."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from influx.influence import Influence
from influx.metrics.agreement import Agreement
from influx.metrics.ceiling import Ceiling
from influx.metrics.per_test import summarise
from influx.metrics.pooled import pearson_and_slope, spearman_and_kendall
from influx.metrics.ranking import Ranking, ndcg, overlap, top
from influx.metrics.row_samples import kendall_samples, pearson_samples, ranking_samples, spearman_samples
from influx.metrics.statistics import counts_of, resample, spearman_columns

MIN_COVERAGE = 0.8  # of 0.95, by 20 to 60 draws; resampling columns alone covers 0.2 to 0.5


def world(seed: int, n: int, m: int, rank: int = 5) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Scores, truth and two seeds of it; rows differ in size and in how well their scores and seeds agree."""
    rng = np.random.default_rng(seed)

    def effects() -> np.ndarray:
        return rng.normal(size=(n, rank)) @ rng.normal(size=(rank, m))

    size, doubt = np.exp(0.5 * rng.normal(size=(n, 1))), rng.uniform(0, 2, size=(n, 1))
    truth = size * effects()
    return truth + doubt * size * effects(), truth, [truth + doubt * effects() for _ in range(2)]


def only(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    result = np.full_like(values, np.nan)
    result[rows] = values[rows]
    return result


def truth_on(rows: np.ndarray, truth: np.ndarray, seeds: list[np.ndarray]) -> Influence:
    replicates = tuple(only(values, rows) for values in seeds)
    return Influence(values=only(truth, rows), replicates=replicates, report={"seeds": 1})


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    scores, truth, _ = world(0, 60, 5)
    return np.round(scores, 1), np.round(truth, 1)  # rounding makes ties


def test_pearson_of_resampled_rows_is_exact(pair):
    indices = resample(np.random.default_rng(1), 60, 6)
    expected = [[stats.pearsonr(pair[0][rows, j], pair[1][rows, j])[0] for j in range(5)] for rows in indices]
    np.testing.assert_allclose(pearson_samples(pair, counts_of(indices)), expected, atol=1e-12)


def test_samples_of_several_arrays_are_means_over_pairs():
    _, truth, seeds = world(0, 40, 3)
    arrays, counts = [truth, *seeds], counts_of(resample(np.random.default_rng(1), 40, 4))
    for samples in (pearson_samples, spearman_samples, kendall_samples):
        pairs = [samples([arrays[a], arrays[b]], counts) for a in range(3) for b in range(a)]
        np.testing.assert_allclose(samples(arrays, counts), np.mean(pairs, axis=0), atol=1e-12)


@pytest.mark.parametrize(("samples", "of"), [(spearman_samples, stats.spearmanr), (kendall_samples, stats.kendalltau)])
def test_rank_correlations_of_resampled_rows_follow_ranking_anew(pair, samples, of):
    indices = resample(np.random.default_rng(1), 60, 150)
    expected = np.array([[of(pair[0][rows, j], pair[1][rows, j])[0] for j in range(5)] for rows in indices])
    found = samples(pair, counts_of(indices))
    for one, other in zip(found.T, expected.T, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.95  # to first order
        assert np.std(one) == pytest.approx(np.std(other), rel=0.15)


def test_a_resample_of_one_row_has_no_correlation(pair):
    counts = np.zeros((1, 60))
    counts[0, 7] = 60
    assert np.isnan(pearson_samples(pair, counts)).all()


def test_ranking_samples_rank_the_resampled_rows(pair):
    scores, truth = pair
    indices = np.sort(resample(np.random.default_rng(1), 60, 30), axis=1)  # ties in the order of rows
    found = ranking_samples(scores, truth, counts_of(indices), k=4)
    for b, rows in enumerate(indices):
        s, t = scores[rows], truth[rows]
        by_score, by_truth = top(s, 4), top(t, 4)
        expected = overlap(by_score, by_truth, 60), overlap(top(-s, 4), top(-t, 4), 60), ndcg(t, by_score, by_truth)[0]
        np.testing.assert_allclose([part[b] for part in found], expected, atol=1e-12)


def test_pooled_pearson_and_slope_of_resampled_rows_and_columns_are_exact(pair):
    rng = np.random.default_rng(1)
    rows, columns = resample(rng, 60, 5), resample(rng, 5, 5)
    pearson, slope = pearson_and_slope(*pair, counts_of(columns), counts_of(rows))
    for b in range(5):
        x, y = (values[np.ix_(rows[b], columns[b])].ravel() for values in pair)
        assert pearson.samples[b] == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)
        assert slope.samples[b] == pytest.approx(stats.linregress(x, y).slope, abs=1e-12)


@pytest.mark.parametrize("which", [0, 1])
def test_pooled_rank_correlations_of_resampled_rows_and_columns_follow_ranking_anew(which):
    scores, truth, _ = world(2, 40, 30)
    rng = np.random.default_rng(1)
    rows, columns = resample(rng, 40, 100), resample(rng, 30, 100)
    samples = spearman_and_kendall(scores, truth, counts_of(columns), rng, counts_of(rows))[which].samples
    of = (stats.spearmanr, stats.kendalltau)[which]
    cells = [np.ix_(*drawn) for drawn in zip(rows, columns, strict=True)]
    expected = [of(scores[drawn].ravel(), truth[drawn].ravel()).statistic for drawn in cells]
    assert np.corrcoef(samples, expected)[0, 1] > 0.97
    assert np.std(samples) == pytest.approx(np.std(expected), rel=0.15)


def test_the_protocol_says_what_was_resampled(make_run):
    scores, truth, seeds = world(0, 50, 6)
    both = Agreement(n_boot=100), Ranking(k=3, n_boot=100), Ceiling(n_boot=100)
    for rows, said in ((np.arange(20), True), (np.arange(50), False)):
        run = make_run(truth_on(rows, truth, seeds))
        for metric in both:
            protocol = metric.evaluate(Influence(values=scores), run).protocol
            assert (protocol.str.contains("rows and columns resampled") == said).all()


@pytest.mark.parametrize("rows", [3, 4])
def test_very_few_rows_have_wide_intervals_and_no_warnings(make_run, rows):
    scores, truth, seeds = world(0, 50, 6)
    run = make_run(truth_on(np.arange(rows), truth, seeds))
    for metric in (Agreement(n_boot=100), Ranking(k=2, n_boot=100), Ceiling(n_boot=100)):
        table = metric.evaluate(Influence(values=scores), run).query("metric != 'slope'")
        assert (table.ci_high - table.ci_low > 0.1).all()
        assert ((table.ci_low >= -1) & (table.ci_high <= 1)).all()


@pytest.mark.parametrize("drawn", [30, 100])
def test_spearman_intervals_cover_the_value_over_all_rows(drawn):
    scores, truth, _ = world(3, 600, 300)
    everything = spearman_columns(scores, truth).mean()
    rng = np.random.default_rng(drawn)
    hits = 0
    for _ in range(20):
        rows = rng.choice(600, drawn, replace=False)
        pair = scores[rows], truth[rows]
        samples = spearman_samples(pair, counts_of(resample(rng, drawn, 100)))
        row = summarise("r", spearman_columns(*pair), rng=rng, n_boot=100, samples=samples)
        hits += row.ci_low <= everything <= row.ci_high
    assert hits / 20 >= MIN_COVERAGE


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [30, 100])
def test_all_intervals_cover_the_value_over_all_rows(make_run, drawn):
    scores, truth, seeds = world(3, 600, 300)
    metrics = Agreement(n_boot=200), Ceiling(n_boot=200)

    def tables(rows: np.ndarray, seed: int) -> list:
        run = make_run(truth_on(rows, truth, seeds), seed=seed)
        results = [metric.evaluate(Influence(values=scores), run).set_index("metric") for metric in metrics]
        return [result[["value", "ci_low", "ci_high"]] for result in results]

    everything = [table.value for table in tables(np.arange(600), 0)]
    rng = np.random.default_rng(drawn)
    hits = [0 * values for values in everything]
    for draw in range(60):
        found = zip(tables(rng.choice(600, drawn, replace=False), draw), everything, strict=True)
        hits = [so_far + table.apply(_covers, axis=1, of=of) for so_far, (table, of) in zip(hits, found, strict=True)]
    for share in hits:
        assert (share / 60 >= MIN_COVERAGE).all(), share / 60


def _covers(row, of) -> bool:
    return bool(row.ci_low <= of[row.name] <= row.ci_high)


@pytest.mark.slow
def test_ranking_intervals_cover_the_mean_over_draws(make_run):
    scores, truth, seeds = world(3, 600, 300)
    rng = np.random.default_rng(0)
    drawn = [rng.choice(600, 100, replace=False) for _ in range(60)]
    metric = Ranking(k=10, n_boot=200)
    tables = [metric.evaluate(Influence(values=scores), make_run(truth_on(rows, truth, seeds))) for rows in drawn]
    values, low, high = (np.array([table[name] for table in tables]) for name in ("value", "ci_low", "ci_high"))
    expected = values.mean(axis=0)
    assert ((low <= expected) & (expected <= high)).mean(axis=0).min() >= MIN_COVERAGE
