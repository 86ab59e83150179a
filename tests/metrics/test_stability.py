"""Agreement of rankings with each other, against sets and textbook formulas."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.influence import Influence
from influx.metrics.rankings import jaccard, parts_of_variance, rank_biased_overlap, tied_at, tied_weight
from influx.metrics.stability import NAMES, Stability
from influx.streams import stream

ARRAYS = list(np.random.default_rng(0).normal(size=(3, 30, 4)) + np.random.default_rng(1).normal(size=(30, 4)))


def lists(values: np.ndarray, j: int) -> list[int]:
    return np.argsort(-values[:, j]).tolist()


def test_jaccard_is_that_of_sets() -> None:
    for j, found in enumerate(jaccard(ARRAYS, 5)):
        sets = [set(lists(a, j)[:5]) for a in ARRAYS]
        assert found == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in combinations(sets, 2)]))


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
def test_rank_biased_overlap_is_its_definition(p: float) -> None:
    for j, found in enumerate(rank_biased_overlap(ARRAYS, p)):
        pairs = []
        for a, b in combinations([lists(a, j) for a in ARRAYS], 2):
            # beyond the last rank everything is common, for ever
            agreement = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, 31)] + [1.0] * 2000
            pairs.append((1 - p) * sum(p**d * share for d, share in enumerate(agreement)))
        assert found == pytest.approx(np.mean(pairs), abs=1e-8)


def test_the_same_rankings_agree_and_reversed_ones_do_not() -> None:
    one = ARRAYS[0]
    assert rank_biased_overlap([one, one], 0.9) == pytest.approx(np.ones(4))
    assert jaccard([one, -one], 5) == pytest.approx(np.zeros(4))
    assert (rank_biased_overlap([one, -one], 0.9) < 0.9**15).all()  # nothing is common before rank 16


def test_the_intraclass_correlation_of_two_seeds_is_their_covariance_over_their_mean_variance() -> None:
    parts = parts_of_variance(np.stack(ARRAYS[:2]))
    for j in range(4):
        covariance = np.cov(ARRAYS[0][:, j], ARRAYS[1][:, j])
        assert parts.repeat[j] == pytest.approx(2 * covariance[0, 1] / np.trace(covariance))
        assert parts.mean[j] == pytest.approx(2 * parts.repeat[j] / (1 + parts.repeat[j]))  # Spearman-Brown


def test_parts_of_the_variance_are_those_put_in() -> None:
    rng = np.random.default_rng(2)
    values = 2 * rng.normal(size=(1, 3000, 2)) + rng.normal(size=(60, 1, 2)) + 0.5 * rng.normal(size=(60, 3000, 2))
    parts = parts_of_variance(values)
    assert parts.instances == pytest.approx(np.full(2, 4), rel=0.1)  # deviation of a variance: √(2/3000)
    assert parts.seeds == pytest.approx(np.full(2, 1), rel=0.6)  # √(2/60)
    assert parts.rest == pytest.approx(np.full(2, 0.25), rel=0.02)
    tiny = parts_of_variance(values * 1e-180)
    assert tiny.repeat == pytest.approx(parts.repeat)


def run_of(others: Any) -> Any:
    return SimpleNamespace(again=SimpleNamespace(trained=others), rng=lambda purpose: stream(0, purpose))


def test_stability_averages_over_pairs_of_seeds_and_test_instances() -> None:
    given = [Influence(values=values.astype(np.float32)) for values in ARRAYS]
    found = Stability(seeds=3, k=5, n_boot=100).evaluate(given[0], run_of(lambda n: given[n])).set_index("metric")
    pairs = combinations(ARRAYS, 2)
    expected = np.mean([spearmanr(a[:, j], b[:, j]).statistic for a, b in pairs for j in range(4)])
    assert list(found.index) == list(NAMES)
    assert found.value["stability_spearman"] == pytest.approx(expected, abs=1e-4)
    assert found.value[["stability_part_instances", "stability_part_seeds", "stability_part_rest"]].sum() == (
        pytest.approx(1)
    )
    assert ((found.ci_low <= found.value) & (found.value <= found.ci_high)).all() and (found.n == 4).all()
    assert "random rankings" not in found.note["stability_icc_mean"]  # a ratio without a mean


def test_the_overlap_of_random_rankings_is_what_the_note_says() -> None:
    drawn = [np.random.default_rng(seed).random((50, 2000)) for seed in (3, 4)]
    expected = (1 - 0.9) * Stability()._expected(50)
    assert rank_biased_overlap(drawn, 0.9).mean() == pytest.approx(expected, abs=0.003)


def test_the_jaccard_of_random_sets_is_what_the_note_says() -> None:
    drawn = [np.random.default_rng(seed).random((12, 20000)) for seed in (5, 6)]
    metric = Stability(seeds=2, k=4, n_boot=100)
    given = [Influence(values=values[:, :3]) for values in drawn]
    found = metric.evaluate(given[0], run_of(lambda n: given[n])).set_index("metric")
    said = float(found.note["stability_jaccard"].split("random rankings: ")[1].split(";")[0])
    assert jaccard(drawn, 4).mean() == pytest.approx(said, abs=0.004)  # 4 · its standard error


def test_ties_are_seen_where_they_matter() -> None:
    values = np.array([[5.0, 5.0, 1.0], [4.0, 5.0, 1.0], [4.0, 3.0, 1.0], [1.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    assert tied_at(values, 1).tolist() == [False, True, True]
    assert tied_at(values, 2).tolist() == [True, False, True]
    assert not tied_at(values, 5).any()
    assert tied_weight(values, 0.5) == pytest.approx([0.25, 0.5, 0.5 + 0.25 + 0.0625])


def test_sparse_influence_does_not_agree_by_the_order_of_its_zeros() -> None:
    rng = np.random.default_rng(7)
    given = [Influence(values=np.where(rng.random((60, 5)) < 0.05, rng.random((60, 5)), 0)) for _ in range(2)]
    given = [Influence(values=np.hstack([one.values, rng.random((60, 3))])) for one in given]  # three columns of ranks
    found = Stability(seeds=2, n_boot=100).evaluate(given[0], run_of(lambda n: given[n])).set_index("metric")
    for name in ("stability_jaccard", "stability_rbo"):
        assert found.n[name] == 3 and "test instances left out for ties" in found.note[name]
    sparse = [Influence(values=one.values[:, :5]) for one in given]
    found = Stability(seeds=2, n_boot=100).evaluate(sparse[0], run_of(lambda n: sparse[n])).set_index("metric")
    assert (found.status[["stability_jaccard", "stability_rbo"]] == "degenerate").all()


def test_a_seed_that_diverges_is_named() -> None:
    def diverge(number: int) -> Influence:
        raise NumericalError("risk is not finite")

    found = Stability(n_boot=100).evaluate(Influence(values=ARRAYS[0]), run_of(diverge))
    assert (found.status == "degenerate").all()
    assert found.note.str.contains("training 2 of 3, with another seed: risk is not finite").all()


def test_what_cannot_be_compared_says_why() -> None:
    one = Influence(values=np.ones((30, 4)))
    found = Stability(seeds=2, n_boot=100).evaluate(one, run_of(lambda n: one))
    assert (found.status == "degenerate").all() and found.note.str.contains("4 constant").all()

    def refuse(number: int) -> Influence:
        raise IncompatibleError("no randomness")

    found = Stability(n_boot=100).evaluate(one, run_of(refuse))
    assert (found.status == "not applicable").all() and (found.note == "no randomness").all()
    found = Stability(k=30, n_boot=100).evaluate(one, run_of(lambda n: one))
    assert (found.status == "not applicable").all() and found.note.str.contains("metric.stability.k=30").all()


@pytest.mark.parametrize("settings", [{"seeds": 1}, {"k": 0}, {"persistence": 1.0}, {"n_boot": 9}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"metric.stability.{next(iter(settings))}"):
        Stability(**settings)
