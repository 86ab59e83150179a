from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from influx.influence import Influence
from influx.metrics.ceiling import NAMES, Ceiling


def table(run):
    return Ceiling(n_boot=200).evaluate(Influence(values=np.zeros((1, 1))), run).set_index("metric")


def truth_of(replicates):
    return Influence(values=np.mean(replicates, axis=0), replicates=tuple(replicates))


@pytest.fixture
def replicates() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 9)) + 0.5 * rng.normal(size=(3, 60, 9))


def test_it_is_the_mean_correlation_over_pairs_of_seeds(replicates, make_run):
    result = table(make_run(truth_of(replicates)))
    pairs = [(replicates[a][:, j], replicates[b][:, j]) for a in range(3) for b in range(a) for j in range(9)]
    assert result.value["ceiling_pearson"] == pytest.approx(np.mean([stats.pearsonr(a, b)[0] for a, b in pairs]))
    spearman = np.mean([stats.spearmanr(a, b)[0] for a, b in pairs])
    assert result.value["ceiling_spearman"] == pytest.approx(spearman)
    assert result.value["ceiling_spearman_mean"] == pytest.approx(3 * spearman / (1 + 2 * spearman))
    assert ((result.ci_low < result.value) & (result.value < result.ci_high)).all()


def test_rows_that_a_seed_lacks_are_left_out(replicates, make_run):
    partial = replicates.copy()
    partial[0, :10], partial[1, 50:] = np.nan, np.nan
    result = table(make_run(truth_of(partial)))
    np.testing.assert_array_equal(result.value, table(make_run(truth_of(replicates[:, 10:50]))).value)
    assert result.protocol.str.contains("40 of 60 training instances").all()


def test_identical_seeds_agree_perfectly(replicates, make_run):
    result = table(make_run(truth_of(replicates[[0, 0]])))
    np.testing.assert_allclose(result.value, 1)


def test_replicates_made_for_the_ceiling_alone_do_not_raise_reliability(replicates, make_run):
    second = replicates[1].copy()
    second[30:] = np.nan
    truth = Influence(values=replicates[0], replicates=(replicates[0], second), report={"seeds": 1})
    result = table(make_run(truth))
    assert result.value["ceiling_spearman_mean"] == pytest.approx(result.value["ceiling_spearman"])
    assert result.protocol.str.contains("30 of 60").all()


def test_a_constant_test_instance_is_counted(replicates, make_run):
    replicates[1, :, 4] = 0
    result = table(make_run(truth_of(replicates)))
    assert (result.n == 8).all()
    assert result.note.str.contains("1 of 9 test instances degenerate").all()


@pytest.mark.parametrize("count", [0, 1])
def test_one_seed_has_no_ceiling(replicates, make_run, count):
    truth = Influence(values=replicates[0], replicates=tuple(replicates[:count]))
    result = table(make_run(truth))
    assert result.index.tolist() == list(NAMES)
    assert (result.status == "not applicable").all()
    assert result.note.str.contains("truth.seeds=1").all()


def test_no_truth_has_no_ceiling(make_run):
    assert table(make_run(None)).note.str.contains("truth=none").all()
