"""Predictions that change when one instance is left out, counted one model at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from influx.engines.retrain import Bank, row_keys
from influx.errors import ConfigError
from influx.estimators.retraining.loo import LeaveOneOut
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.unfairness import FOUND, NAMES, Unfairness, disagreement, wilson
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.planning import Prospect
from influx.problem import Design, Problem
from influx.run import Run
from influx.store import Folder


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    data = toys.table(n_train=12, n_test=30)
    return toys.train(tmp_path, data, MLP(width=3), SGD(lr=0.3), batch_size=12)


def run_of(toy: Toy, metric: Unfairness) -> Run:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    return Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=metric.requires, who="unfairness")


def scored(toy: Toy) -> Influence:
    return Influence(values=np.random.default_rng(0).normal(size=(len(toy.train), len(toy.test))))


def measured(toy: Toy, **settings: Any) -> pd.DataFrame:
    metric = Unfairness(**settings)
    return metric.evaluate(scored(toy), run_of(toy, metric)).set_index("metric")


def predicted(toy: Toy, removed: int | None, seed: int) -> np.ndarray:
    """Classes of the test instances under one model, trained alone."""
    weights = np.ones((1, len(toy.train)))
    if removed is not None:
        weights[0, removed] = 0
    seeds = np.array([seed])
    design = Design(weights=weights, init=seeds, order=seeds, loss_norm="full")
    return toy.problem.learner.retrain(toy.problem.data, toy.problem.seed, design)[1].prediction[0]


def test_it_counts_the_predictions_that_change(toy: Toy) -> None:
    found = measured(toy, seeds=2, baseline_seeds=3)["value"]
    n, m = 12, 30
    share = np.zeros((n, m))
    for seed in (0, 1):
        full = predicted(toy, None, seed)
        for i in range(n):
            share[i] += (predicted(toy, i, seed) != full) / 2
    models = [predicted(toy, None, seed) for seed in range(3)]
    luck = np.mean([models[a] != models[b] for a, b in ((0, 1), (0, 2), (1, 2))], axis=0)
    assert share.any() and luck.any()
    expected = [(share > 0).any(axis=0).mean(), share.mean(), share.mean(axis=0).max(), luck.mean()]
    assert np.allclose(found[list(NAMES[:4])], expected, atol=1e-12)
    assert found["unfairness_excess"] == pytest.approx(share.mean() - luck.mean(), abs=1e-12)
    values = np.abs(scored(toy).values)
    areas = [roc_auc_score(share[:, j] > 0, values[:, j]) for j in range(m) if 0 < (share[:, j] > 0).sum() < n]
    assert found[FOUND] == pytest.approx(np.mean(areas), abs=1e-12)


def test_a_model_that_does_not_learn_is_fair_and_only_as_lucky_as_its_initialisation(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_test=20), MLP(width=3), SGD(lr=1e-12))
    found = measured(toy)
    assert (found.loc[list(NAMES[:3]), "value"] == 0).all() and found.loc["unfairness_seed", "value"] > 0
    assert found.loc["unfairness_excess", "value"] == -found.loc["unfairness_seed", "value"]
    assert 0 < found.loc["unfairness_any", "ci_high"] < 0.3  # 0 of 20 does not prove 0
    assert found.loc[FOUND, "status"] == "not applicable" and "turned" in found.loc[FOUND, "note"]


def test_removals_without_a_score_are_told_from_predictions_that_do_not_turn(toy: Toy) -> None:
    metric = Unfairness(baseline_seeds=2)
    nothing = Influence(values=np.full((len(toy.train), len(toy.test)), np.nan))
    found = metric.evaluate(nothing, run_of(toy, metric)).set_index("metric").loc[FOUND]
    assert found["status"] == "not applicable" and found["note"] == "none of the removed instances has a score"


def test_of_some_removals_the_worst_is_a_lower_bound(toy: Toy) -> None:
    few, every = measured(toy, budget=3), measured(toy)
    assert few.loc["unfairness_any", "value"] <= every.loc["unfairness_any", "value"]
    assert "at least: 9 training instances" in few.loc["unfairness_any", "note"]
    assert every.loc["unfairness_any", "note"] == "" and few.loc["unfairness_most", "n"] == 3


def test_the_same_instances_are_left_out_in_whatever_order_they_come_and_by_leave_one_out(toy: Toy) -> None:
    order = np.random.default_rng(1).permutation(len(toy.train))
    split = toy.train
    shuffled = replace(toy.problem.data, train=replace(split, x=split.x[order], y=split.y[order], ids=split.ids[order]))

    def asked(problem: Problem) -> list[set[int]]:
        """Ids that the metric and then the estimator leave out, 4 and 6 of them."""
        metric = [Unfairness(budget=k)._removed(Prospect(problem=problem, who="unfairness")) for k in (4, 6)]
        loo = [LeaveOneOut(budget=k).removed(Prospect(problem=problem, who="loo")) for k in (4, 6)]
        return [set(problem.train.ids[rows].tolist()) for rows in metric + loo]

    found = asked(toy.problem)
    assert found == asked(replace(toy.problem, data=shuffled))
    assert found[:2] == found[2:] and found[0] < found[1] and len(found[1]) == 6


def test_regression_has_no_classes(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression"), MLP(width=3), SGD(lr=0.05))
    assert (measured(toy)["status"] == "not applicable").all()


def test_the_plan_names_the_models_that_are_trained(toy: Toy) -> None:
    metric = Unfairness(seeds=2, budget=5)
    run = run_of(toy, metric)
    metric.evaluate(scored(toy), run)
    assert run.bank.trained == 2 * 6 + 8  # of the 10 of the baseline, 2 are there
    planned = metric.plan(Prospect(problem=toy.problem, who="unfairness")).trainings
    assert len({key for design in planned for key in row_keys(design)}) == run.bank.requested
    assert not any(len(run.bank.missing(design)) for design in planned)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (17, 400)])
def test_wilson_is_that_of_scipy(count: int, n: int) -> None:
    expected = binomtest(count, n).proportion_ci(method="wilson")
    assert np.allclose(wilson(count / n, n), (expected.low, expected.high), atol=1e-12)


def test_disagreement_is_over_pairs() -> None:
    classes = np.array([[0, 1], [0, 2], [1, 0], [0, 1]], np.float32)
    assert np.allclose(disagreement(classes), [3 / 6, 5 / 6])


@pytest.mark.parametrize("settings", [{"seeds": 0}, {"budget": 0}, {"baseline_seeds": 1}, {"n_boot": 1}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.unfairness\.{next(iter(settings))}"):
        Unfairness(**settings)
