"""Query loss differences against models trained one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.linear.ridge import Ridge
from influx.learners.torch.optimizers import SGD
from influx.metrics.banks import FIRST_TUNING_SEED, queries
from influx.metrics.qld import QueryLossDifference, _Samples, widened
from influx.metrics.statistics import counts_of, resample
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from tests.metrics.retrained import prospect_of, run_of, without

N, M, K = 15, 16, 3
SETTINGS: dict[str, Any] = {"share": 0.2, "tests": 4, "controls": 2, "seeds": 2, "n_boot": 200}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(n_train=N, n_test=M), MLP(width=3), SGD(lr=0.3), batch_size=15)


def measured(toy: Toy, values: np.ndarray, **settings: Any) -> pd.DataFrame:
    metric = QueryLossDifference(**(SETTINGS | settings))
    return metric.evaluate(Influence(values=values), run_of(toy, metric, "qld")).set_index("metric")


@pytest.mark.parametrize("bank", ["test", "tune"])
def test_differences_are_those_of_models_trained_one_at_a_time(toy: Toy, bank: Any) -> None:
    values = np.random.default_rng(0).normal(size=(N, M))
    found, asked = measured(toy, values, bank=bank), queries(prospect_of(toy), bank, 4)
    assert len(asked) == 4 and found.protocol.str.contains(f"bank={bank}").all()
    first = 0 if bank == "test" else FIRST_TUNING_SEED
    masks = QueryLossDifference(**SETTINGS, bank=bank)._controls(prospect_of(toy))[1:]
    random_sets = [np.flatnonzero(mask == 0) for mask in masks]
    assert [len(rows) for rows in random_sets] == [K, K]
    own, random, full = [], [], []
    for seed in (first, first + 1):
        full += [without(toy, [], seed).loss[asked].mean()]
        random += [without(toy, rows, seed).loss[asked].mean() for rows in random_sets]
        for j in asked:
            best = sorted(range(N), key=lambda i: -values[i, j])[:K]
            own.append(without(toy, best, seed).loss[j])
    assert found.value["qld"] == pytest.approx(np.mean(own) - np.mean(random), abs=1e-12)
    rise = np.reshape(own, (2, 4)) - [
        np.mean([without(toy, rows, seed).loss[asked] for rows in random_sets], axis=0) for seed in (first, first + 1)
    ]
    r = np.corrcoef(rise)[0, 1]
    assert r > 0 and found.value["qld_ceiling"] == pytest.approx(2 * r / (1 + r))
    assert found.value["qld_removed"] == pytest.approx(np.mean(own) - np.mean(full), abs=1e-12)
    assert found.value["qld_random"] == pytest.approx(np.mean(random) - np.mean(full), abs=1e-12)
    assert (found.ci_low <= found.value).all() and (found.value <= found.ci_high).all()


def test_real_proponents_are_missed_and_arbitrary_ones_are_not(tmp_path: Path) -> None:
    data = toys.table("regression", n_train=30, n_test=40)
    toy = toys.learned(tmp_path, data, Ridge(weight_decay=0.01))
    alone = np.array([without(toy, [i], 0, "full").loss for i in range(30)]) - without(toy, [], 0).loss
    settings: Any = {"share": 0.1, "tests": None, "controls": 20, "seeds": 1}
    assert measured(toy, alone, **settings).ci_low["qld"] > 0 > measured(toy, -alone, **settings).ci_high["qld"]
    chance = measured(toy, np.random.default_rng(0).normal(size=alone.shape), **settings).loc["qld"]
    assert chance.ci_low < 0 < chance.ci_high and chance.n == 20
    assert "one seed" in chance.note
    assert measured(toy, alone, **settings).status["qld_ceiling"] == "not applicable"


def test_queries_without_usable_scores_are_left_out_and_counted(toy: Toy) -> None:
    values = np.random.default_rng(0).normal(size=(N, M))
    asked = queries(prospect_of(toy), "test", 4)
    values[:, asked[0]], values[2, asked[1]] = 1.0, np.nan
    found = measured(toy, values).loc["qld"]
    assert found.n == 2 and "2 of 4 test instances degenerate" in found.note
    values[:, asked[2]] = 1.0
    single = measured(toy, values).loc["qld"]
    assert single.n == 1 and np.isfinite(single.value) and "single query" in single.note
    assert np.isnan([single.ci_low, single.ci_high]).all()
    values[2] = np.nan
    assert (measured(toy, values).status == "not applicable").all()
    flat = measured(toy, np.ones((N, M)))
    assert (flat.status == "degenerate").all() and flat.value.isna().all()


def test_intervals_are_widened_for_few_seeds_and_sets(toy: Toy) -> None:
    rng = np.random.default_rng(0)
    values, shares = rng.normal(size=3), counts_of(resample(rng, 3, 40_000)) / 3
    unbiased = values.std(ddof=1) / np.sqrt(3)
    assert (widened(shares) @ values).std() == pytest.approx(unbiased, rel=0.02)
    assert (shares @ values).std() < 0.85 * unbiased
    assert np.array_equal(widened(np.ones((4, 1))), np.ones((4, 1)))
    metric = QueryLossDifference(**SETTINGS)
    samples = _Samples(run_of(toy, metric, "qld"), metric, 4)
    for of_two in (samples.seeds, samples.sets):
        assert of_two.min() == pytest.approx(0.5 - np.sqrt(0.5)) and np.allclose(of_two.sum(axis=1), 1)
    assert samples.queries.min() == 0


def test_equal_scores_go_by_id_wherever_rows_stand(toy: Toy) -> None:
    metric, order = QueryLossDifference(**SETTINGS), np.random.default_rng(1).permutation(N)
    values = np.round(np.random.default_rng(0).normal(size=(N, 4)))
    moved = toy.with_data(replace(toy.problem.data, train=toy.train.take(order)))
    kept = metric._weights(values, run_of(toy, metric, "qld"))
    assert np.array_equal(metric._weights(values[order], run_of(moved, metric, "qld")), kept[:, order])


def test_the_plan_names_the_models_that_are_trained(toy: Toy) -> None:
    metric = QueryLossDifference(**SETTINGS)
    run, planned = run_of(toy, metric, "qld"), metric.plan(prospect_of(toy))
    metric.evaluate(Influence(values=np.random.default_rng(0).normal(size=(N, M))), run)
    assert not any(len(run.bank.missing(design)) for design in planned.trainings)
    assert run.bank.requested == sum(map(len, planned.trainings)) + planned.own_trainings


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"tests": 1}, {"controls": 0}, {"seeds": 0}, {"bank": "x"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.qld\.{next(iter(settings))}"):
        QueryLossDifference(**settings)
