"""Gaps add up to the whole, vanish where theory says so, and are counted from parameters moved by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch

from influx.engines import subsets
from influx.engines.proximal import Proximal
from influx.engines.retrain import Bank, row_keys
from influx.engines.warm import warm_losses
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.if_gaps import InfluenceFunctionGaps, gaps, names
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


@pytest.mark.parametrize(("against", "prefix"), [("everything", "gaps"), ("trained", "gaps_trained")])
def test_they_add_up_to_the_difference_from_leave_one_out_whatever_the_estimate(
    toy: Toy, against: Literal["everything", "trained"], prefix: str
) -> None:
    exact = toy.estimate("if_exact", damping=0.1)
    values = exact.values + 0.01 * np.random.default_rng(0).normal(size=exact.values.shape)
    found = measured(toy, Influence(values=values, report=exact.report), instances=12, against=against)
    assert list(found.index) == names(against) and (found.status == "ok").all() and (found.note == "").all()
    value = {name.removeprefix(f"{prefix}_"): number for name, number in found.value.items()}
    assert value["telescoping_error"] < 1e-15
    total = toy.estimate("loo", ceiling_budget=0).values - values
    assert value["total_mean"] == pytest.approx(total.mean(), abs=1e-12)
    assert value["total_size"] == pytest.approx(np.abs(total).mean(), abs=1e-12)
    assert sum(value[f"{gap}_mean"] for gap in gaps(against)) == pytest.approx(total.mean(), abs=1e-12)
    assert sum(value[f"{gap}_share"] for gap in gaps(against)) == pytest.approx(1, abs=1e-12)
    off = exact.values - values
    assert value["approximation_mean"] == pytest.approx(off.mean(), abs=1e-12)
    assert value["approximation_size"] == pytest.approx(np.abs(off).mean(), abs=1e-12)


def test_an_exact_solver_leaves_no_gap_and_the_others_are_those_of_its_stations(toy: Toy) -> None:
    exact, response = (toy.estimate(name, damping=0.1) for name in ("if_exact", "pbrf"))
    found = measured(toy, exact, instances=12, tol=1e-7)
    assert found.value["gaps_approximation_size"] < 1e-13
    last = found.value["gaps_linearisation_mean"] + found.value["gaps_test_linearisation_mean"]
    assert last == pytest.approx((response.values - exact.values).mean(), abs=1e-5)
    assert "damping=0.1" in found.protocol["gaps_total_mean"]


def test_of_a_quadratic_objective_at_its_minimum_the_first_three_vanish(tmp_path: Path) -> None:
    toy = toys.converged(tmp_path, toys.bundled("diabetes", 20, 6), Linear(), 0.1)
    exact = toy.estimate("if_exact", damping=0.0)
    found = measured(toy, exact, instances=8, tol=1e-9, damping=1e-9).value
    for gap in gaps("everything")[:3]:
        assert found[f"gaps_{gap}_size"] < 1e-6 * found["gaps_linearisation_size"]
    assert found["gaps_drift"] == pytest.approx(0, abs=1e-9)
    assert found["gaps_approximation_size"] < 1e-6 * found["gaps_linearisation_size"]


def test_training_on_drifts_and_only_a_common_reference_takes_it_out(toy: Toy) -> None:
    exact = toy.estimate("if_exact", damping=0.1)
    shared, own = (measured(toy, exact, against=against).value for against in ("everything", "trained"))
    assert not set(shared.index) & set(own.index)  # two definitions, which no table can mix
    difference = shared["gaps_warm_start_mean"] - own["gaps_trained_warm_start_mean"]
    assert difference == pytest.approx(own["gaps_trained_drift"], abs=1e-9)
    assert abs(own["gaps_trained_drift"]) > 5 * shared["gaps_warm_start_size"]


def test_training_on_is_averaged_over_the_same_seeds_as_retraining(toy: Toy) -> None:
    exact = toy.estimate("if_exact", damping=0.1)
    toy = toys.train(toy.folder / "batches", toy.problem.data, MLP(width=3), SGD(lr=0.2), epochs=2, batch_size=4)
    found = measured(toy, exact, instances=12, seeds=3)
    n, cold, warm = 12, [], []
    for seed in range(3):
        losses = toy.learner.retrain(toy.problem.data, 0, subsets.leave_one_out(n, np.arange(n), seed, "full"))[1].loss
        cold.append(losses[1:] - losses[0])
        losses = warm_losses(toy.problem, toy.fitted, np.arange(n), seed)
        warm.append(losses[1:] - losses[0])
    off = (np.stack(cold) - np.stack(warm)).mean(axis=(1, 2))
    assert found.value["gaps_warm_start_mean"] == pytest.approx(off.mean(), abs=1e-12)
    assert f"standard error over 3 seeds {off.std(ddof=1) / 3**0.5:.2g}" in found.note["gaps_warm_start_mean"]
    assert np.ptp([w.mean() for w in warm]) > 1e-6  # the order of batches makes a difference
    assert "seeds" not in found.note["gaps_proximity_mean"]


def test_damping_that_is_not_the_estimates_is_told(toy: Toy) -> None:
    exact = toy.estimate("if_exact", damping=0.1)
    averaged = {"damping": 0.1, "damping_min": 0.05, "damping_max": 0.3}
    found = measured(toy, Influence(values=exact.values, report=averaged), instances=3)
    range_ = "the estimate's damping is 0.05 to 0.3 by layer, 0.1 on average"
    assert found.note["gaps_total_mean"] == f"{range_}, gaps are at 0.1"
    assert damping(toy, averaged, 0.1)[1].endswith("the estimate's is 0.05 to 0.3 by layer, 0.1 on average")
    assert damping(toy, {"damping": 0.1}, 0.1) == damping(toy, {"damping": 0.1}) == (0.1, "")
    assert damping(toy, {"damping": 0.1}, 0.2) == (0.2, "gaps are at damping {:.3g}, the estimate's is 0.1")
    assert damping(toy, {}) == (None, "the estimate states no damping, gaps are at {:.3g}")


def damping(toy: Toy, report: dict[str, float | str | dict[str, float]], own: float | None = None) -> Any:
    metric = InfluenceFunctionGaps(damping=own)
    return metric._damping(Influence(values=np.zeros((12, 6)), report=report), run_of(toy, metric))


def test_no_damping_stays_none_where_weight_decay_holds_everything(toy: Toy) -> None:
    assert damping(toy, {"damping": 0.0}) == (0.0, "")
    loose = toys.train(toy.folder / "loose", toy.problem.data, MLP(width=3), SGD(lr=0.2), epochs=1)
    chosen, told = damping(loose, {"damping": 0.0})
    assert chosen is None and "damping is 0 and not all parameters have weight decay, gaps are at" in told


def test_one_instance_that_is_fitted_does_not_decide_for_all(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = Proximal(run_of(toy, InfluenceFunctionGaps()).curvature, 0.1, 100)
    rows = torch.arange(12)
    whole = solver.keep(rows, 1e-3, 100)
    gradients = Proximal._gradients

    def fitted(self: Proximal, rows: torch.Tensor, of: Any = None) -> torch.Tensor:
        found = gradients(self, rows, of)
        return torch.where(rows[:, None] == 0, 1e-12 * found, found)

    monkeypatch.setattr(Proximal, "_gradients", fitted)
    assert solver.keep(rows, 1e-3, 100).iterations <= whole.iterations + 3
    assert solver.keep(rows[:1], 1e-3, 100).iterations > whole.iterations + 3


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
    assert (found.status == "degenerate").all()
    remedy = "did not converge in 1 steps; set metric.if_gaps.steps=4 or metric.if_gaps.damping=1"
    assert found.note.iloc[0] == f"the minimisation with nothing left out {remedy}"
    found = measured(toy, exact, steps=1, tol=1e-8, against="trained")
    assert found.note.iloc[0] == f"12 of 12 instances left out: their minimisations {remedy}"


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
    assert planned.more_trainings == 10
    with pytest.raises(IncompatibleError, match=r"metric\.if_gaps\.max_p"):
        InfluenceFunctionGaps(max_p=3).plan(Prospect(problem=toy.problem, who="if_gaps", shape=shape))


@pytest.mark.parametrize(
    "settings", [{"instances": 2}, {"seeds": 0}, {"against": "x"}, {"damping": 0.0}, {"tol": 2.0}, {"steps": 0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.if_gaps\.{next(iter(settings))}"):
        InfluenceFunctionGaps(**settings)
