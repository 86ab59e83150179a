"""Influence under another model, against what the run's own model does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import influx
from influx.config import compose
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.influence import Influence
from influx.job import Job, assemble
from influx.judged import Judged
from influx.metrics.lds import draw_masks
from influx.metrics.surrogate_transfer import NAMES, SurrogateTransfer
from influx.other_models import work_under_others
from influx.trained import trained_problem

SMALL = [
    "dataset=iris",
    "dataset.n_train=20",
    "dataset.n_test=6",
    "model=mlp",
    "model.width=6",
    "training.epochs=3",
    "training.batch_size=10",
    "truth=none",
    "baselines=[]",
]
RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(30, 5))
OWN, OTHER = (Influence(values=TRUE + noise * RNG.normal(size=(30, 5))) for noise in (0.5, 2.0))


def job_of(outputs: Path, *overrides: str) -> Job:
    return assemble(compose([*SMALL, f"paths.outputs={outputs}", *overrides]))


def estimated(job: Job) -> np.ndarray:
    run = job.run(trained_problem(job), job.estimator.requires, job.estimator_name, job.bank())
    return np.asarray(job.estimator.estimate(run).values)


def judged(run: Any, under: Any) -> Any:
    run.again = SimpleNamespace(under=under)
    return run


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([spearmanr(left[:, j], right[:, j]).statistic for j in range(left.shape[1])]))


def test_numbers_are_those_of_their_definitions(make_run: Any, make_bank: Any, value: Any) -> None:
    run = judged(make_run(Influence(values=TRUE), bank=make_bank(TRUE), size=(30, 5)), lambda *given: OTHER)
    found = SurrogateTransfer(subsets=40, n_boot=100).evaluate(OWN, run)
    assert list(found.metric) == list(NAMES) and (found.status == "ok").all()
    assert value(found, "transfer_truth") == pytest.approx(correlation(OTHER.values, TRUE))
    assert value(found, "transfer_truth_own") == pytest.approx(correlation(OWN.values, TRUE))
    masks = draw_masks(30, 15, 40, 0).astype(float)
    lds = correlation(masks @ OTHER.values, masks @ TRUE)
    assert value(found, "transfer_lds") == pytest.approx(lds)
    gap = lds - correlation(masks @ OWN.values, masks @ TRUE)
    assert value(found, "transfer_lds_gap") == pytest.approx(gap) and gap < -0.1
    assert value(found, "transfer_agreement") == pytest.approx(correlation(OTHER.values, OWN.values))


def test_a_surrogate_that_says_the_same_loses_nothing(make_run: Any, make_bank: Any) -> None:
    run = judged(make_run(Influence(values=TRUE), bank=make_bank(TRUE), size=(30, 5)), lambda *given: OWN)
    found = SurrogateTransfer(subsets=10, n_boot=100).evaluate(OWN, run).set_index("metric")
    for name in ("transfer_truth_gap", "transfer_lds_gap"):
        assert found.value[name] == found.ci_low[name] == found.ci_high[name] == 0
    assert found.value["transfer_agreement"] == pytest.approx(1)


@pytest.mark.parametrize(("error", "status"), [(IncompatibleError, "not applicable"), (NumericalError, "degenerate")])
def test_a_surrogate_without_influence_is_a_state(make_run: Any, error: type[Exception], status: str) -> None:
    def refuse(*given: object) -> Influence:
        raise error("for a reason")

    found = SurrogateTransfer(n_boot=100).evaluate(OWN, judged(make_run(), refuse))
    assert (found.status == status).all() and found.note.str.contains("for a reason").all() and found.value.isna().all()


def test_what_is_missing_is_said(make_run: Any, make_bank: Any) -> None:
    flat = Influence(values=np.where(np.arange(5) == 2, 1.0, OTHER.values))
    run = judged(make_run(bank=make_bank(TRUE), size=(30, 5)), lambda *given: flat)
    found = SurrogateTransfer(subsets=0, n_boot=100).evaluate(OWN, run).set_index("metric")
    assert (found.status == ["not applicable"] * 6 + ["ok"]).all()
    assert "1 constant" in found.note["transfer_agreement"] and found.n["transfer_agreement"] == 4


def test_influence_under_another_model_is_that_of_a_run_with_it(tmp_path: Path) -> None:
    job, other = job_of(tmp_path), job_of(tmp_path, "model.width=3", "model.activation=relu")
    given = {"width": 3, "activation": "relu"}
    found = Judged.of(job, job.estimator_name, OWN, []).under("mlp", given, "metric.surrogate_transfer")
    assert np.array_equal(found.values, estimated(other))
    assert other.problem_folder.has("problem.json") and len(list((tmp_path / "problems").iterdir())) == 1
    linear = Judged.of(job, job.estimator_name, OWN, []).under("linear", None, "metric.surrogate_transfer")
    assert not np.array_equal(linear.values, found.values)


@pytest.mark.slow
def test_a_run_reports_transfer(tmp_path: Path) -> None:
    metric = ["metric=[surrogate_transfer]", *(f"metric.surrogate_transfer.{s}" for s in ("subsets=8", "n_boot=100"))]
    table = influx.run([*SMALL, *metric, f"paths.outputs={tmp_path}"]).metrics.set_index("metric")
    assert table.status["transfer_lds_gap"] == "ok" and "model=linear" in table.protocol["transfer_lds"]
    linear = [setting for setting in SMALL if not setting.startswith("model")]
    other = estimated(assemble(compose([*linear, "model=linear", f"paths.outputs={tmp_path}"])))
    own = estimated(job_of(tmp_path))
    assert table.value["transfer_agreement"] == pytest.approx(correlation(own, other), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("surrogate=mpl", r"metric\.surrogate_transfer\.surrogate=mpl does not exist \(did you mean 'mlp'"),
        ("settings={width: 3}", r"metric\.surrogate_transfer: model\.width is not a setting"),
        ("subsets=2", r"metric\.surrogate_transfer\.subsets"),
        ("surrogate=ppca", r"learns another task"),
    ],
)
def test_a_surrogate_that_cannot_be_is_refused_before_any_work(tmp_path: Path, settings: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        job_of(tmp_path, "metric=[surrogate_transfer]", f"metric.surrogate_transfer.{settings}")


def test_the_plan_counts_estimates_under_the_surrogate(tmp_path: Path) -> None:
    wide = ("metric=[surrogate_transfer]", "metric.surrogate_transfer.surrogate=mlp")
    job = job_of(tmp_path, *wide, "metric.surrogate_transfer.settings={width: 50}", "baselines=[loss,gradient_norm]")
    found = work_under_others(job)
    other = job_of(tmp_path, "model.width=50")
    assert [work.formula.partition(":")[0] for work in found] == [
        f"{name} under model=mlp" for name in ("tracincp", "loss", "gradient_norm")
    ]
    assert found[0].flops == other.work(other.estimator, "tracincp").flops > job.work(job.estimator, "tracincp").flops
    loo = work_under_others(job_of(tmp_path, *wide, "estimator=loo", "estimator.ceiling_budget=0"))[0]
    assert not loo.trainings and loo.own_trainings == 21
    linear = job_of(tmp_path, "metric=[surrogate_transfer]", "metric.surrogate_transfer.surrogate=logistic")
    assert work_under_others(linear) == []  # no checkpoints there


def test_needs_that_the_surrogate_does_not_serve_are_a_state(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    with pytest.raises(IncompatibleError, match="model=logistic"):
        Judged.of(job, job.estimator_name, OWN, []).under("logistic", None, "metric.surrogate_transfer")
