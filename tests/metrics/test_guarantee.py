"""Bounds hold where they promise to, and calibration covers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.engines.retrain import Bank
from influx.engines.subsets import leave_one_out
from influx.learners.linear.logistic import Logistic
from influx.learners.linear.ridge import Ridge
from influx.metrics.calibrated import calibrate, quantile
from influx.metrics.concentration import bernstein, hoeffding
from influx.metrics.stability_bounds import stability
from influx.oracles import toys
from influx.reporting.guarantee import UNKNOWN, guarantee_line
from influx.run import Run
from influx.store import Folder


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("norm", ["full", "subset"])
@pytest.mark.parametrize("weight", [0.01, 1.0])
def test_no_removal_moves_a_risk_beyond_the_stability_bound(
    tmp_path: Path, task: Any, norm: Any, weight: float
) -> None:
    learner = (Logistic if task == "classification" else Ridge)(weight_decay=weight, penalise_intercept=True)
    toy = toys.learned(tmp_path, toys.table(task, n_train=15, n_test=8), learner)
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    run = Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=frozenset())
    bound = stability(run, norm == "subset")
    assert not isinstance(bound, str)
    loss = bank.outcomes(leave_one_out(15, np.arange(15), 0, norm))[1].loss
    moved = np.abs(loss[1:] - loss[0])
    assert (moved <= bound.cells + 1e-9).all() and (bound.cells <= bound.uniform + 1e-9).all()
    assert (bound.cells < 300 * moved.max()).any()  # and it is no empty promise
    lax = replace(learner, penalise_intercept=False)
    assert "penalise_intercept" in str(stability(replace(run, problem=replace(toy.problem, learner=lax)), False))


def test_concentration_bounds_cover_differences_of_means() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2000, 40)) < 0.3, rng.random((2000, 60)) < 0.5
    off = np.abs(a.mean(axis=1) - b.mean(axis=1) + 0.2)
    width = hoeffding(1.0, (40, 60), 0.9)
    assert (off <= width).mean() >= 0.9 and width == pytest.approx(np.sqrt(np.log(20) / 2 * (1 / 40 + 1 / 60)))
    stderr = np.sqrt(a.var(axis=1, ddof=1) / 40 + b.var(axis=1, ddof=1) / 60)
    assert np.mean([o <= bernstein(1.0, s, (40, 60), 0.9) for o, s in zip(off, stderr, strict=True)]) >= 0.9
    assert bernstein(1.0, 1e-4, (10000, 10000), 0.9) < hoeffding(1.0, (10000, 10000), 0.9)


@pytest.mark.parametrize("fitted", [False, True])
def test_calibrated_intervals_cover_what_they_promise(fitted: bool) -> None:
    rng = np.random.default_rng(0)
    covered, halves = [], []
    for _ in range(30):
        truth = rng.normal(size=(80, 5))
        scores = truth + 0.3 * rng.standard_t(3, size=(80, 5))
        given = 7 * scores + 2 if fitted else scores
        found = calibrate(given, truth, rng.permutation(80), 0.9, fitted=fitted, resamples=rng.random((100, 80)))
        covered.append(found.covered.mean())
        halves.append(np.quantile(found.half_samples, [0.025, 0.975]) - found.half)
        assert found.half < found.trivial
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)
    assert (np.array(halves)[:, 0] <= 0).all() and (np.array(halves)[:, 1] >= 0).all()


def test_the_quantile_leaves_the_next_number_its_chance() -> None:
    assert quantile(np.arange(1.0, 10.0), 0.9) == 9 and quantile(np.arange(1.0, 20.0), 0.9) == 18
    assert quantile(np.arange(1.0, 5.0), 0.9) == 4  # too few: the largest


def test_one_line_says_which_guarantee() -> None:
    row = {"estimator": "e", "status": "ok", "ci_low": 0.8, "ci_high": 0.95, "note": ""}
    calibrated = row | {"metric": "guarantee", "value": 0.5, "protocol": "calibrated; level 0.9; x"}
    coverage = row | {"metric": "guarantee_coverage", "value": 0.91, "protocol": ""}
    said = guarantee_line([calibrated, coverage], "e")
    assert said.startswith("calibrated: value ± ") and "level 0.9" in said and "measured coverage" in said
    exact = calibrated | {"protocol": "exact; leave-one-out of x; up to rounding", "value": 0.0}
    assert guarantee_line([exact], "e") == "exact: leave-one-out of x"
    certificate = row | {"metric": "certified_radius_k50", "value": 14.0, "protocol": ""}
    assert "withstand 14" in guarantee_line([certificate], "e")
    assert guarantee_line([exact], "other") == UNKNOWN
