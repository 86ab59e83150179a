"""Smallest removals that flip a prediction, against models trained one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.banks import FIRST_TUNING_SEED, queries
from influx.metrics.brittleness import Brittleness, _Found
from influx.metrics.tidy import Measured, tables_of
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from tests.metrics.retrained import prospect_of, run_of, without

N, M = 18, 24
SETTINGS: dict[str, Any] = {"counts": [4, 12], "tests": 3, "seeds": 3, "n_boot": 200}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    data = toys.table(n_train=N, n_test=M)
    return toys.train(tmp_path, data, MLP(width=4), SGD(lr=0.5), batch_size=18)


def measured(toy: Toy, values: np.ndarray, **settings: Any) -> pd.DataFrame:
    metric = Brittleness(**(SETTINGS | settings))
    return metric.evaluate(Influence(values=values), run_of(toy, metric, "brittleness"))


@pytest.mark.parametrize("bank", ["test", pytest.param("tune", marks=pytest.mark.slow)])
def test_smallest_removals_are_those_of_models_trained_one_at_a_time(toy: Toy, bank: Any) -> None:
    values = np.where(toy.train.y[:, None] == toy.test.y, 1.0, 0.0) + np.random.default_rng(0).random((N, M))
    first = 0 if bank == "test" else FIRST_TUNING_SEED
    seeds = range(first, first + 3)
    right = np.array([without(toy, [], seed).prediction == toy.test.y for seed in seeds])
    assert 0 < right.all(axis=0).sum() < M  # some are unstable
    asked = queries(prospect_of(toy), bank, 3, np.flatnonzero(right.all(axis=0)))
    drawn = Brittleness(**SETTINGS, bank=bank)._random(run_of(toy, Brittleness(), "x"), asked)
    random = dict(zip(asked.tolist(), drawn, strict=True))

    tried: list[list[bool]] = []  # by removal, which seeds are wrong

    def smallest(order: Any, j: int) -> float:
        for k in (4, 12):
            wrong = [without(toy, order[:k], seed).prediction[j] != toy.test.y[j] for seed in seeds]
            tried.append(wrong)
            if sum(wrong) >= 2:
                return k
        return np.inf

    own = [smallest(sorted(range(N), key=lambda i, j=j: -values[i, j]), j) for j in asked]  # type: ignore[misc]
    by_influence = np.array(tried, dtype=float)
    chance = [smallest(random[j], j) for j in asked]
    assert np.isfinite(own).any()
    frame = measured(toy, values, bank=bank)
    assert frame.protocol.str.contains(f"bank={bank}").all()
    found = frame.set_index("metric")
    assert found.n["brittleness_flipped"] == len(asked)
    assert found.value["brittleness_flipped"] == pytest.approx(np.isfinite(own).mean())
    excess = np.mean([np.mean([s <= k for s in own]) - np.mean([s <= k for s in chance]) for k in (4, 12)])
    assert found.value["brittleness_excess"] == pytest.approx(excess)
    assert f"{len(by_influence)} removals were trained" in found.note["brittleness_ceiling"]
    curve = tables_of(frame)["brittleness"].set_index(["series", "removed"]).flipped
    for k in (0, 4, 12):
        assert curve["by influence", k] == pytest.approx(np.mean([s <= k for s in own]))
        assert curve["random", k] == pytest.approx(np.mean([s <= k for s in chance]))


def test_a_random_order_belongs_to_the_id_of_its_test_instance(toy: Toy) -> None:
    run, metric = run_of(toy, Brittleness(), "x"), Brittleness(**SETTINGS)
    drawn = metric._random(run, np.array([3, 7]))
    assert drawn.shape == (2, 12) and not np.array_equal(*drawn)
    order = np.arange(M)[::-1]
    data = replace(toy.problem.data, test=toy.test.take(order))
    moved = replace(run, problem=replace(toy.problem, data=data))
    assert np.array_equal(metric._random(moved, M - 1 - np.array([3, 7])), drawn)


def stopped(wrong: np.ndarray) -> np.ndarray:
    """What is left of ``wrong`` (seeds, tests, counts) if nothing is tried after a flip."""
    flips = wrong.mean(axis=0) > 0.5
    after = np.cumsum(flips, axis=1) - flips > 0
    return np.where(after, np.nan, wrong.astype(float))


def ceiling_of(wrong: np.ndarray) -> Measured:
    return Brittleness(**SETTINGS)._ceiling(wrong, np.ones((100, wrong.shape[1])), "")


def test_the_ceiling_is_the_agreement_of_seeds_on_what_was_trained() -> None:
    wrong = stopped(np.random.default_rng(4).random((3, 8, 2)) < np.linspace(0.1, 0.9, 8)[None, :, None])
    cells = np.array([wrong[:, j, k] for j in range(8) for k in range(2) if np.isfinite(wrong[0, j, k])])
    at = np.array([k for j in range(8) for k in range(2) if np.isfinite(wrong[0, j, k])])
    for k in range(2):
        cells[at == k] -= cells[at == k].mean(axis=0)
    r = np.corrcoef(cells.T)[np.triu_indices(3, 1)].mean()
    assert 8 < len(cells) < 16 and 0 < r < 1
    found = ceiling_of(wrong)
    assert found.value == pytest.approx(3 * r / (1 + 2 * r)) and found.n == 8
    assert f"{len(cells)} removals were trained" in found.note and not any(map(str.isdigit, found.protocol[:80]))
    assert Brittleness(seeds=1)._ceiling(wrong[:1], np.ones((100, 8)), "").status == "not applicable"


def test_test_instances_that_are_alike_have_no_ceiling() -> None:
    rng, rising = np.random.default_rng(0), np.array([0, 0, 0.05, 0.5, 0.95, 1])
    values = [ceiling_of(stopped(rng.random((3, 60, 6)) < rising)).value for _ in range(60)]
    assert np.mean(values) < 0.15  # the mean of what is left of chance, as no reliability is below 0
    sudden = ceiling_of(stopped(rng.random((3, 60, 6)) < np.array([0, 0, 0, 0, 0, 1])))
    assert sudden.status == "degenerate" and "without spread under 3 of 3 seeds" in sudden.note


def test_the_ceiling_is_the_share_of_variance_between_test_instances() -> None:
    rng, share = np.random.default_rng(1), np.repeat([0.1, 0.3, 0.8, 0.9], 500)[:, None] * [0.2, 1.0]
    wrong = (rng.random((3, *share.shape)) < share).astype(float)  # nothing stops
    between, within = share.var(axis=0).sum(), (share * (1 - share)).mean(axis=0).sum()
    assert ceiling_of(wrong).value == pytest.approx(between / (between + within / 3), abs=0.03)


def found_of(own: list[float]) -> dict[str, Any]:
    n, counts = len(own), np.random.default_rng(0).multinomial(len(own), [1 / len(own)] * len(own), 500)
    found = _Found([5, 10], np.array(own), np.full(n, np.inf), counts.astype(np.float64))
    return {row.metric: row for row in found.rows("protocol", "")}


def test_the_median_is_censored_when_more_than_half_stand() -> None:
    rows = found_of([5.0, 10.0, np.inf, np.inf, np.inf])
    median = rows["brittleness_median"]
    assert median.status == "not applicable" and np.isnan(median.value) and "above k=10" in median.note
    assert "3 of 5 censored" in median.note and "3 of 5 censored" in rows["brittleness_flipped"].note
    assert rows["brittleness_excess"].value == pytest.approx((0.2 + 0.4) / 2)
    open_ended = found_of([5.0, 5.0, 10.0, 10.0, np.inf, np.inf])["brittleness_median"]
    assert open_ended.value == 10 and open_ended.ci_low == 5 and np.isnan(open_ended.ci_high)
    assert "no upper end" in open_ended.note
    sure = found_of([5.0] * 6)["brittleness_median"]
    assert (sure.value, sure.ci_low, sure.ci_high) == (5, 5, 5)
    assert "interval knows nothing" in found_of([5.0] * 6)["brittleness_excess"].note
    for row in (found_of([5.0])["brittleness_median"], found_of([5.0])["brittleness_excess"]):
        assert np.isfinite(row.value) and np.isnan([row.ci_low, row.ci_high]).all() and "single" in row.note


def test_what_cannot_be_had_has_a_reason_instead_of_a_number(toy: Toy, tmp_path: Path) -> None:
    flat = measured(toy, np.ones((N, M)))
    assert (flat.status == "degenerate").all() and flat.value.isna().all()
    plain = toys.train(tmp_path, toys.table("regression"), MLP(width=2), SGD(lr=0.1), batch_size=9)
    frame = measured(plain, np.ones((9, 4)), counts=[2])
    assert (frame.status == "not applicable").all() and "regression" in frame.note.iloc[0]
    assert frame.protocol.str.contains("k in 2; test instances that").all()
    values = np.random.default_rng(0).random((N, M))
    values[2] = np.nan
    missing = measured(toy, values)
    assert (missing.status == "not applicable").all() and missing.note.str.contains("1 of 18").all()
    assert not Brittleness().plan(prospect_of(plain)).more_trainings


def test_the_plan_is_an_upper_bound(toy: Toy) -> None:
    metric = Brittleness(**SETTINGS)
    run, planned = run_of(toy, metric, "brittleness"), metric.plan(prospect_of(toy))
    metric.evaluate(Influence(values=np.random.default_rng(0).random((N, M))), run)
    (everything,) = planned.trainings
    assert len(everything) == 3 and not len(run.bank.missing(everything))
    assert planned.more_new == planned.more_trainings == planned.own_trainings == 3 * 2 * 3
    assert 3 < run.bank.requested <= 3 + planned.more_trainings + planned.own_trainings


def test_equal_scores_go_by_id_wherever_rows_stand(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[np.ndarray] = []

    def noted(metric: Brittleness, run: Any, tests: np.ndarray, orders: np.ndarray) -> Any:
        removed.append(run.train.ids[orders])
        return np.full(len(tests), np.inf), np.zeros((3, len(tests), 2))

    monkeypatch.setattr(Brittleness, "_smallest", noted)
    order = np.random.default_rng(1).permutation(N)
    values = (toy.train.y[:, None] == toy.test.y).astype(float)
    measured(toy, values)
    measured(toy.with_data(replace(toy.problem.data, train=toy.train.take(order))), values[order])
    assert len(removed) == 4  # by influence and at random, twice
    assert np.array_equal(removed[0], removed[2]) and np.array_equal(removed[1], removed[3])


@pytest.mark.parametrize("settings", [{"counts": []}, {"counts": [5, 5]}, {"tests": 0}, {"seeds": 0}, {"bank": "x"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.brittleness\.{next(iter(settings))}"):
        Brittleness(**settings)


def test_counts_beyond_the_training_instances_are_refused_before_any_work(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"metric\.brittleness\.counts.*leaves none of 18"):
        Brittleness(counts=[18]).plan(prospect_of(toy))
