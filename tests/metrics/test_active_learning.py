"""Pool instances added to a base, one model at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.active_learning import ActiveLearning, least_confidence
from influx.metrics.add_one import _reliability
from influx.metrics.refit import Judge
from influx.metrics.tidy import tables_of
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.planning import Prospect
from influx.problem import Data, Design, Outcomes, Split
from influx.run import Run
from influx.store import Folder

N, M, SEEDS = 20, 24, 2
SETTINGS: dict[str, Any] = {"pool": 0.6, "shares": [0.1, 0.3], "sample": 5, "seeds": SEEDS, "n_boot": 100}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(n_train=N, n_test=M), MLP(width=3), SGD(lr=0.3), batch_size=10)


def run_of(toy: Toy, metric: ActiveLearning) -> Run:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    return Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=metric.requires, who="active_learning")


def measured(toy: Toy, values: np.ndarray, **settings: Any) -> pd.DataFrame:
    metric = ActiveLearning(**(SETTINGS | settings))
    return metric.evaluate(Influence(values=values), run_of(toy, metric))


def trained(toy: Toy, kept: Any, seed: int, data: Data | None = None) -> Outcomes:
    """Outcomes on test of one model trained on the rows ``kept``."""
    weights = np.zeros((1, N))
    weights[0, list(kept)] = 1
    numbers = np.array([seed])
    design = Design(weights=weights, init=numbers, order=numbers, loss_norm="subset")
    return toy.problem.learner.retrain(data or toy.problem.data, toy.problem.seed, design)[1]


def accuracy(toy: Toy, kept: Any, judging: np.ndarray) -> float:
    found = [trained(toy, kept, seed).prediction[0] for seed in range(SEEDS)]
    return float(np.mean([(prediction == toy.test.y)[judging].mean() for prediction in found]))


def confidences(toy: Toy, base: list[int], pool: list[int]) -> np.ndarray:
    """Probability of the likeliest class, from the probabilities of every class; mean over seeds."""
    data, found = toy.problem.data, []
    for seed in range(SEEDS):
        each = []
        for label in range(3):
            asked = Split(x=toy.train.x[pool], y=np.full(len(pool), label), ids=toy.train.ids[pool])
            each.append(np.exp(-trained(toy, base, seed, replace(data, test=asked)).loss[0]))
        assert np.allclose(np.sum(each, axis=0), 1)
        found.append(np.max(each, axis=0))
    return np.asarray(np.mean(found, axis=0))


def test_accuracies_are_those_of_models_trained_one_at_a_time(toy: Toy) -> None:
    values = np.random.default_rng(0).normal(size=(N, M))
    metric, prospect = ActiveLearning(**SETTINGS), Prospect(problem=toy.problem, who="test")
    frame = measured(toy, values)
    found, judging = frame.set_index("metric").value, Judge.of(prospect, SEEDS).judging
    pool = metric._pool(prospect).tolist()
    base = [i for i in range(N) if i not in pool]
    assert len(pool) == 12
    total = np.delete(values, judging, axis=1).sum(axis=1)
    unsure = dict(zip(pool, confidences(toy, base, pool), strict=True))
    by_doubt = sorted(pool, key=lambda i: unsure[i])
    orders = {"sum": sorted(pool, key=lambda i: -total[i])}
    best = np.delete(values, judging, axis=1)[pool]
    place = [np.sum(best > row, axis=0) for row in best]  # of each column's values, how many are larger
    named = [(own.min(), -row[own == own.min()].max()) for own, row in zip(place, best, strict=True)]
    orders["turns"] = [i for _, i in sorted(zip(named, pool, strict=True))]
    curves = tables_of(frame)["active_learning"].set_index(["series", "added"])["accuracy"]
    for (rule, order), (share, count) in product(orders.items(), ((0.1, 2), (0.3, 6))):
        after, doubt = (accuracy(toy, base + chosen[:count], judging) for chosen in (order, by_doubt))
        name = f"{rule}_{100 * share:g}"
        assert found[f"active_{name}"] == pytest.approx(after, abs=1e-12)
        assert found[f"active_gain_uncertainty_{name}"] == pytest.approx(after - doubt, abs=1e-12)
        assert found[f"active_gain_random_{name}"] == pytest.approx(after - curves["random", share], abs=1e-12)
    assert curves["random", 0.0] == curves["by sum", 0.0] == pytest.approx(accuracy(toy, base, judging), abs=1e-12)


def test_confidence_is_the_probability_of_the_likeliest_class(toy: Toy) -> None:
    metric = ActiveLearning(**SETTINGS)
    run = run_of(toy, metric)
    pool = np.array([1, 4, 7, 8, 15])
    base = [i for i in range(N) if i not in pool]
    weights = np.isin(np.arange(N), base).astype(np.uint8)
    found = least_confidence(run, Judge.of(run, SEEDS), weights, pool)
    assert np.allclose(found, confidences(toy, base, pool.tolist()), atol=1e-6)


def test_add_one_in_is_the_fall_of_the_loss(toy: Toy) -> None:
    values = np.random.default_rng(0).normal(size=(N, M))
    metric, prospect = ActiveLearning(**SETTINGS), Prospect(problem=toy.problem, who="test")
    frame = measured(toy, values).set_index("metric")
    pool = metric._pool(prospect)
    added = metric._sample(prospect, pool).tolist()
    assert len(added) == 5 and set(added) <= set(pool.tolist())
    base = [i for i in range(N) if i not in pool]
    judging = Judge.of(prospect, SEEDS).judging
    falls = np.empty((5, SEEDS, M))
    for seed in range(SEEDS):
        before = trained(toy, base, seed).loss[0]
        for row, i in enumerate(added):
            falls[row, seed] = before - trained(toy, [*base, i], seed).loss[0]
    mean = falls.mean(axis=1)
    each = [spearmanr(values[added, j], mean[:, j]).statistic for j in judging]
    assert frame.value["active_add_one_correlation"] == pytest.approx(np.mean(each), abs=1e-12)
    total = np.delete(values, judging, axis=1).sum(axis=1)[added]
    expected = spearmanr(total, mean[:, judging].mean(axis=1)).statistic
    assert frame.value["active_add_one_sum_correlation"] == pytest.approx(expected, abs=1e-12)
    assert "reliability of the effects over 2 seeds" in frame.note["active_add_one_correlation"]


def test_the_real_effects_correlate_perfectly_with_themselves(toy: Toy) -> None:
    metric, run = ActiveLearning(**SETTINGS), None
    prospect = Prospect(problem=toy.problem, who="test")
    pool, judge = metric._pool(prospect), Judge.of(prospect, SEEDS)
    run = run_of(toy, metric)
    made = judge.refit(run.retrain, metric._known(prospect, pool), "test")
    values = np.random.default_rng(0).normal(size=(N, M))
    for row in metric._sample(prospect, pool).tolist():
        values[row, judge.judging] = (made["base", 0].loss - made["one", row].loss).mean(axis=0)
    assert measured(toy, values).set_index("metric").value["active_add_one_correlation"] == pytest.approx(1)


def test_what_cannot_be_measured_says_why(toy: Toy, tmp_path: Path) -> None:
    frame = measured(toy, np.ones((N, M)))
    assert len(frame) == 14 and (frame["status"] == "degenerate").all()
    numbers = toys.train(tmp_path, toys.table("regression", n_train=N, n_test=M), MLP(width=3), SGD(lr=0.05))
    frame = measured(numbers, np.random.default_rng(0).normal(size=(N, M)), seeds=1).set_index("metric")
    unsure = frame.index.str.contains("uncertainty")
    assert (frame.status[unsure] == "not applicable").all() and (frame.status[~unsure] == "ok").all()


def test_a_test_instance_that_ranks_nothing_is_left_out_of_the_correlation(toy: Toy) -> None:
    values = np.random.default_rng(0).normal(size=(N, M))
    judge = Judge.of(Prospect(problem=toy.problem, who="test"), SEEDS)
    whole = measured(toy, values).set_index("metric")
    first, second = judge.judging[:2]
    values[:, first], values[:, second] = 1.0, np.nan
    frame = measured(toy, values).set_index("metric")
    name = "active_add_one_correlation"
    assert (frame.n[name], frame.status[name]) == (len(judge.judging) - 2, "ok") and whole.n[name] == len(judge.judging)
    assert frame.ci_low[name] < frame.value[name] < frame.ci_high[name]


def test_values_outside_the_pool_do_not_count(toy: Toy) -> None:
    values, metric = np.random.default_rng(0).normal(size=(N, M)), ActiveLearning(**SETTINGS)
    outside = np.setdiff1d(np.arange(N), metric._pool(run_of(toy, metric)))
    whole = measured(toy, values).set_index("metric")
    values[outside] = np.nan
    assert measured(toy, values).set_index("metric").value.equals(whole.value)


def test_the_ceiling_is_the_root_of_the_reliability() -> None:
    real = np.random.default_rng(0).normal(size=(400, 1, 1))
    noisy = real + np.random.default_rng(1).normal(size=(400, 5, 1))
    best = spearmanr(real[:, 0, 0], noisy.mean(axis=1)[:, 0]).statistic  # an estimate without error
    note = _reliability(noisy)
    assert float(note.split("so that ")[1].split(" ")[0]) == pytest.approx(best, abs=0.02)
    assert best > float(note.split(": ")[1].split(",")[0]) + 0.05
    assert "not applicable" in _reliability(np.repeat(real, 5, axis=1))


def test_the_plan_names_the_models_that_are_known(toy: Toy) -> None:
    metric = ActiveLearning(**SETTINGS)
    run = run_of(toy, metric)
    metric.evaluate(Influence(values=np.random.default_rng(0).normal(size=(N, M))), run)
    planned = metric.plan(Prospect(problem=toy.problem, who="active_learning"))
    assert not any(len(run.bank.missing(design)) for design in planned.trainings)
    assert sum(map(len, planned.trainings)) == SEEDS * (1 + 2 + 5)
    assert planned.own_trainings == SEEDS * 4  # by 2 rules
    assert planned.more_trainings == SEEDS * (2 + 1)  # by uncertainty, and to ask


@pytest.mark.parametrize(
    "settings", [{"pool": 1.0}, {"shares": [0.9]}, {"rules": ["self"]}, {"sample": 2}, {"seeds": 0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.active_learning\.{next(iter(settings))}"):
        ActiveLearning(**settings)


def test_a_pool_that_cannot_hold_what_is_added_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"metric\.active_learning\.pool=0\.6 is 12 of 20"):
        ActiveLearning(**(SETTINGS | {"sample": 13})).plan(Prospect(problem=toy.problem, who="test"))
