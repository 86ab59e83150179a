from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.agreement import NAMES, Agreement
from influx.metrics.tidy import COLUMNS


@pytest.fixture
def matrices() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 8))
    return truth + rng.normal(size=truth.shape), truth


def table(run, values, **fields):
    return Agreement(n_boot=200).evaluate(Influence(values=values, **fields), run).set_index("metric")


def test_numbers_are_means_of_scipy_per_test_instance(matrices, make_run):
    scores, truth = matrices
    result = table(make_run(Influence(values=truth)), scores)
    columns = list(zip(scores.T, truth.T, strict=True))
    for name, reference in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        assert result.value[name] == pytest.approx(np.mean([reference(a, b).statistic for a, b in columns]))
        assert result.value[f"pooled_{name}"] == pytest.approx(reference(scores.ravel(), truth.ravel()).statistic)
    assert result.value["spearman_median"] == pytest.approx(np.median([stats.spearmanr(a, b)[0] for a, b in columns]))
    assert result.value["slope"] == pytest.approx(stats.linregress(scores.ravel(), truth.ravel()).slope)


def test_every_number_has_an_interval_around_it_and_a_protocol(matrices, make_run):
    result = table(make_run(Influence(values=matrices[1])), matrices[0])
    assert result.index.tolist() == list(NAMES)
    assert result.reset_index().columns.tolist() == list(COLUMNS)
    assert ((result.ci_low < result.value) & (result.value < result.ci_high)).all()
    assert (result.n == 8).all()
    assert result.protocol.str.contains("50 of 50 training instances").all()


def test_only_rows_with_a_truth_count(matrices, make_run):
    scores, truth = matrices
    partial = truth.copy()
    partial[20:] = np.nan
    result = table(make_run(Influence(values=partial)), scores)
    same = table(make_run(Influence(values=truth[:20])), scores[:20])
    np.testing.assert_array_equal(result.value, same.value)
    assert result.protocol.str.contains("20 of 50 training instances").all()


def test_the_protocol_says_how_the_truth_was_made(matrices, make_run):
    truth = Influence(values=matrices[1], report={"protocol": "leave-one-out, loss_norm=full", "seeds": 3})
    result = table(make_run(truth), matrices[0])
    assert result.protocol.str.contains("truth: leave-one-out, loss_norm=full; truth seeds: 3").all()


def test_missing_scores_are_counted(matrices, make_run):
    scores, truth = matrices
    partial = scores.copy()
    partial[:5] = np.nan
    result = table(make_run(Influence(values=truth)), partial)
    assert result.note.str.contains("no score for 5 of 50").all()
    assert result.protocol.str.contains("45 of 50").all()


def test_constant_and_nan_columns_are_counted_not_hidden(matrices, make_run):
    scores, truth = (array.copy() for array in matrices)
    scores[:, 0], truth[:, 1], scores[3, 2] = 7.0, 0.0, np.nan
    result = table(make_run(Influence(values=truth)), scores)
    assert result.n["spearman"] == 5
    assert "3 of 8 test instances degenerate and left out (1 not finite, 2 constant)" in result.note["spearman"]
    assert result.n["pooled_spearman"] == 7
    assert "1 of 8 test instances not finite" in result.note["pooled_spearman"]
    assert result.value["pearson"] == pytest.approx(
        np.mean([stats.pearsonr(scores[:, j], truth[:, j])[0] for j in range(3, 8)])
    )


@pytest.mark.parametrize("fill", [1.0, np.inf])
@pytest.mark.fault(24, "degenerate with the reason, never a number")
def test_scores_without_information_are_degenerate(matrices, make_run, fill):
    result = table(make_run(Influence(values=matrices[1])), np.full_like(matrices[0], fill))
    assert (result.status == "degenerate").all()
    assert result.value.isna().all()
    assert (result.note != "").all()


def test_scores_that_are_nan_everywhere_are_degenerate(matrices, make_run):
    result = table(make_run(Influence(values=matrices[1])), np.full_like(matrices[0], np.nan))
    assert (result.status == "degenerate").all()
    assert result.note.str.contains("no score for 50 of 50").all()


def test_columns_constant_one_by_one_still_pool(matrices, make_run):
    scores = np.tile(np.arange(8.0), (50, 1))
    result = table(make_run(Influence(values=matrices[1])), scores)
    assert result.status["pearson"] == "degenerate"
    assert result.value["pooled_pearson"] == pytest.approx(stats.pearsonr(scores.ravel(), matrices[1].ravel())[0])


def test_a_slope_needs_loss_units(matrices, make_run):
    result = table(make_run(Influence(values=matrices[1])), matrices[0], scale="rank")
    assert result.status["slope"] == "not applicable"
    assert "scale is rank" in result.note["slope"]
    assert (result.drop("slope").status == "ok").all()


def test_without_a_truth_there_is_nothing_to_agree_with(matrices, make_run):
    result = table(make_run(None), matrices[0])
    assert (result.status == "not applicable").all()
    assert result.note.str.contains("truth=none").all()


def test_two_rows_are_too_few(matrices, make_run):
    result = table(make_run(Influence(values=matrices[1][:2])), matrices[0][:2])
    assert (result.status == "not applicable").all()
    assert result.note.str.contains("there are 2").all()


def test_the_same_run_gives_the_same_intervals(matrices, make_run):
    run = make_run(Influence(values=matrices[1]))
    assert table(run, matrices[0]).equals(table(run, matrices[0]))


def test_too_few_resamples_name_the_setting():
    with pytest.raises(ConfigError, match=r"metric\.agreement\.n_boot"):
        Agreement(n_boot=1)
