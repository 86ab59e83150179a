from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import ndcg_score

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.ranking import Ranking, top


@pytest.fixture
def matrices() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 6))
    return truth + rng.normal(size=truth.shape), truth


def table(run, values, k=5):
    return Ranking(k=k, n_boot=200).evaluate(Influence(values=values), run).set_index("metric")


def test_ndcg_is_that_of_scikit_learn(matrices, make_run):
    scores, truth = matrices
    expected = ndcg_score(np.maximum(truth, 0).T, scores.T, k=5)
    assert table(make_run(Influence(values=truth)), scores).value["ndcg"] == pytest.approx(expected)


def test_overlap_counts_common_members(matrices, make_run):
    scores, truth = matrices
    result = table(make_run(Influence(values=truth)), scores)
    for name, rows in (("topk_proponents", slice(-5, None)), ("topk_opponents", slice(5))):
        sets = [[set(np.argsort(values[:, j])[rows]) for values in matrices] for j in range(6)]
        assert result.value[name] == pytest.approx(np.mean([len(a & b) / 5 for a, b in sets]))


def test_a_perfect_ranking_scores_one_and_its_reverse_almost_nothing(matrices, make_run):
    run = make_run(Influence(values=matrices[1]))
    np.testing.assert_allclose(table(run, matrices[1]).value, 1)
    np.testing.assert_allclose(table(run, -matrices[1]).value, 0)


def test_random_rankings_meet_the_stated_expectation(make_run):
    rng = np.random.default_rng(1)
    result = table(make_run(Influence(values=rng.normal(size=(40, 3000)))), rng.normal(size=(40, 3000)))
    for name in result.index:
        assert float(result.note[name].split()[-1]) == pytest.approx(result.value[name], abs=0.015)


@pytest.mark.fault(26, "by id")
def test_ties_go_to_the_lower_id():
    values = np.array([[0.0], [1.0], [1.0], [1.0], [0.0]])
    assert top(values, 2).ravel().tolist() == [1, 2]
    assert top(-values, 3).ravel().tolist() == [0, 4, 1]
    assert top(values, 2, ids=np.array([0, 9, 7, 8, 1])).ravel().tolist() == [2, 3]


@pytest.mark.fault(26, "the order of rows changes nothing")
@pytest.mark.parametrize("compared", [40, 25])
def test_the_order_of_rows_changes_no_number(matrices, make_run, compared):
    scores, truth = (np.round(array) for array in matrices)  # many ties
    truth[compared:] = np.nan  # training instances are resampled too where some have no truth
    order = np.random.default_rng(3).permutation(40)
    here, there = make_run(Influence(values=truth)), make_run(Influence(values=truth[order]))
    there.train = SimpleNamespace(ids=order)
    numbers = ["value", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(table(there, scores[order])[numbers], table(here, scores)[numbers])


def test_a_test_instance_that_nothing_helps_has_no_ndcg(matrices, make_run):
    scores, truth = (array.copy() for array in matrices)
    truth[:, 0] = -np.abs(truth[:, 0])
    result = table(make_run(Influence(values=truth)), scores)
    assert result.n.to_dict() == {"topk_proponents": 6, "topk_opponents": 6, "ndcg": 5}
    assert "1 test instances without a positive truth" in result.note["ndcg"]


@pytest.mark.fault(24, "degenerate with the reason, never a number")
def test_constant_scores_are_degenerate(matrices, make_run):
    result = table(make_run(Influence(values=matrices[1])), np.ones_like(matrices[0]))
    assert (result.status == "degenerate").all()
    assert result.note.str.contains("6 of 6 test instances degenerate").all()


def test_k_that_covers_all_rows_says_nothing(matrices, make_run):
    result = table(make_run(Influence(values=matrices[1])), matrices[0], k=40)
    assert (result.status == "not applicable").all()
    assert result.note.str.contains("metric.ranking.k=40 covers all 40").all()


def test_k_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"metric\.ranking\.k must be at least 1, got 0"):
        Ranking(k=0)
