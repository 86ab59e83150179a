"""Gaps add up to the whole, vanish where theory says so, and are counted from parameters moved by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influx.engines.retrain import Bank, row_keys
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.if_gaps import GAPS, NAMES, InfluenceFunctionGaps
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.planning import Prospect
from influx.run import Run
from influx.store import Folder


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    data = toys.table(n_train=12, n_test=6)
    return toys.train(tmp_path, data, MLP(width=3), SGD(lr=0.2, weight_decay=0.01))


def run_of(toy: Toy, metric: InfluenceFunctionGaps, truth: Influence | None = None) -> Run:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    return Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=metric.requires, who="if_gaps", truth=truth)


def measured(toy: Toy, influence: Influence, truth: Influence | None = None, **settings: Any) -> pd.DataFrame:
    metric = InfluenceFunctionGaps(**{"n_boot": 100} | settings)
    return metric.evaluate(influence, run_of(toy, metric, truth)).set_index("metric")


@pytest.mark.parametrize("against", ["everything", "trained"])
def test_they_add_up_to_the_difference_from_leave_one_out_whatever_the_estimate(toy: Toy, against: str) -> None:
    exact = toy.estimate("if_exact", damping=0.1)
    values = exact.values + 0.01 * np.random.default_rng(0).normal(size=exact.values.shape)
    found = measured(toy, Influence(values=values, report=exact.report), instances=12, against=against)
    assert list(found.index) == list(NAMES) and (found.status == "ok").all()
    assert found.value["gaps_telescoping_error"] < 1e-15
    total = toy.estimate("loo", ceiling_budget=0).values - values
    assert found.value["gaps_total_mean"] == pytest.approx(total.mean(), abs=1e-12)
    assert found.value["gaps_total_size"] == pytest.approx(np.abs(total).mean(), abs=1e-12)
    assert sum(found.value[f"gaps_{gap}_mean"] for gap in GAPS) == pytest.approx(total.mean(), abs=1e-12)
    assert sum(found.value[f"gaps_{gap}_share"] for gap in GAPS) == pytest.approx(1, abs=1e-12)
    off = exact.values - values
    assert found.value["gaps_solver_mean"] == pytest.approx(off.mean(), abs=1e-12)
    assert found.value["gaps_solver_size"] == pytest.approx(np.abs(off).mean(), abs=1e-12)


def test_an_exact_solver_leaves_no_gap_and_the_others_are_those_of_its_stations(toy: Toy) -> None:
    exact, response = (toy.estimate(name, damping=0.1) for name in ("if_exact", "pbrf"))
    found = measured(toy, exact, instances=12, tol=1e-7)
    assert found.value["gaps_solver_size"] < 1e-13
    last = found.value["gaps_linearisation_mean"] + found.value["gaps_test_linearisation_mean"]
    assert last == pytest.approx((response.values - exact.values).mean(), abs=1e-5)
    assert "damping=0.1" in found.protocol["gaps_total_mean"]


def test_of_a_quadratic_objective_at_its_minimum_the_first_three_vanish(tmp_path: Path) -> None:
    toy = toys.converged(tmp_path, toys.bundled("diabetes", 20, 6), Linear(), 0.1)
    exact = toy.estimate("if_exact", damping=0.0)
    found = measured(toy, exact, instances=8, tol=1e-9, damping=1e-9).value
    for gap in GAPS[:3]:
        assert found[f"gaps_{gap}_size"] < 1e-6 * found["gaps_linearisation_size"]
    assert found["gaps_drift"] == pytest.approx(0, abs=1e-9)
    assert found["gaps_solver_size"] < 1e-6 * found["gaps_linearisation_size"]


def test_training_on_drifts_and_only_a_common_reference_takes_it_out(toy: Toy) -> None:
    exact = toy.estimate("if_exact", damping=0.1)
    by = {against: measured(toy, exact, against=against).value for against in ("everything", "trained")}
    difference = by["everything"]["gaps_warm_start_mean"] - by["trained"]["gaps_warm_start_mean"]
    assert difference == pytest.approx(by["trained"]["gaps_drift"], abs=1e-9)
    assert abs(by["trained"]["gaps_drift"]) > 5 * by["everything"]["gaps_warm_start_size"]


def test_only_instances_with_a_truth_and_a_score_are_audited(toy: Toy) -> None:
    exact = toy.estimate("if_exact", damping=0.1)
    partial = np.where(np.arange(12)[:, None] < 5, exact.values, np.nan)
    truth = Influence(values=partial)
    metric = InfluenceFunctionGaps(instances=4, n_boot=100)
    run = run_of(toy, metric, truth)
    metric.evaluate(exact, run)
    assert run.bank.requested == 5
    few = measured(toy, exact, Influence(values=np.where(np.arange(12)[:, None] < 2, exact.values, np.nan)))
    assert (few.status == "not applicable").all()


def test_what_does_not_converge_is_left_out_and_counted(toy: Toy) -> None:
    exact = toy.estimate("if_exact", damping=0.1)
    found = measured(toy, exact, steps=1, tol=1e-8)
    assert (found.status == "degenerate").all() and "12 of 12 instances left out" in found.note.iloc[0]


def test_scores_without_units_have_no_gaps(toy: Toy) -> None:
    found = measured(toy, Influence(values=np.ones((12, 6)), scale="rank"))
    assert (found.status == "not applicable").all() and "scale is rank" in found.note.iloc[0]


def test_the_plan_names_the_models_that_are_trained(toy: Toy) -> None:
    metric = InfluenceFunctionGaps(instances=4, seeds=2, n_boot=100)
    run = run_of(toy, metric)
    metric.evaluate(toy.estimate("if_exact", damping=0.1), run)
    shape = toy.learner.net_shape(toy.problem)
    planned = metric.plan(Prospect(problem=toy.problem, who="if_gaps", shape=shape))
    assert len({key for design in planned.trainings for key in row_keys(design)}) == run.bank.requested == 10
    assert not any(len(run.bank.missing(design)) for design in planned.trainings)
    assert planned.more_trainings == 5
    with pytest.raises(IncompatibleError, match=r"metric\.if_gaps\.max_p"):
        InfluenceFunctionGaps(max_p=3).plan(Prospect(problem=toy.problem, who="if_gaps", shape=shape))


@pytest.mark.parametrize(
    "settings", [{"instances": 2}, {"seeds": 0}, {"against": "x"}, {"damping": 0.0}, {"tol": 2.0}, {"steps": 0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.if_gaps\.{next(iter(settings))}"):
        InfluenceFunctionGaps(**settings)
