"""Bounds hold where they promise to, and calibration covers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from influx.config import load_choice
from influx.engines.retrain import Bank
from influx.engines.subsets import leave_one_out
from influx.guarantees import by_construction
from influx.influence import Influence
from influx.learners.linear.logistic import Logistic
from influx.learners.linear.ridge import Ridge
from influx.metrics.calibrated import calibrate, quantile
from influx.metrics.concentration import Concentration, bernstein, concentration, hoeffding
from influx.metrics.guarantee import Guarantee
from influx.metrics.stability_bounds import stability
from influx.oracles import toys
from influx.reporting.guarantee import guarantee_line
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
    for _ in range(15):
        truth = rng.normal(size=(80, 5))
        scores = truth + 0.3 * rng.standard_t(3, size=(80, 5))
        given = 7 * scores + 2 if fitted else scores
        found = calibrate(given, truth, rng.permutation(80), 0.9, fitted=fitted, resamples=rng.random((100, 80)))
        assert not isinstance(found, str)
        covered.append(found.covered.mean())
        halves.append(np.quantile(found.half_samples, [0.025, 0.975]) - found.half)
        assert found.half < found.trivial
    rows = 20 if fitted else 40
    # between what is promised (cells of a row alike) and that with the correction for rows (cells independent)
    assert 0.9 - 0.01 <= np.mean(covered) <= 0.9 * (rows + 1) / rows + 0.01
    assert (np.array(halves)[:, 0] <= 0).all() and (np.array(halves)[:, 1] >= 0).all()


def test_the_quantile_leaves_the_next_number_its_chance() -> None:
    assert quantile(np.arange(1.0, 10.0), 0.9) == 9 and quantile(np.arange(1.0, 20.0), 0.9) == 18
    # cells of a row are alike: rows count, and half of the cells would not do
    assert quantile(np.repeat(np.arange(1.0, 10.0), 50).reshape(9, 50), 0.9) == 9
    few = calibrate(
        np.zeros((16, 50)), np.ones((16, 50)), np.arange(16), 0.9, fitted=False, resamples=np.zeros((1, 16))
    )
    assert few == "level 0.9 needs 9 calibrating rows, there are 8"


def test_few_rows_that_err_together_are_covered_all_the_same() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(100):
        truth = np.repeat(rng.standard_t(2, size=(20, 1)), 30, axis=1)
        found = calibrate(np.zeros((20, 30)), truth, np.arange(20), 0.75, fitted=False, resamples=np.zeros((1, 20)))
        assert not isinstance(found, str)
        covered.append(found.covered.mean())
    assert np.mean(covered) == pytest.approx(9 / 11, abs=0.04)  # counting cells would give 8 of 11, less than 0.75


def judged(toy: toys.Toy, name: str, estimator: Any = None, truth: Influence | None = None) -> Run:
    bank, named = Bank(toy.problem, Folder(toy.folder / "retrain")), SimpleNamespace(name=name, estimator=estimator)
    again: Any = named
    return Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=frozenset(), truth=truth, judged=again)


def test_half_width_and_coverage_are_those_of_sorted_residuals(tmp_path: Path) -> None:
    n, m = 40, 6
    toy = toys.learned(tmp_path, toys.table(n_train=n, n_test=m), Logistic(weight_decay=0.1, penalise_intercept=True))
    truth = toy.estimate("loo", ceiling_budget=0)
    run, metric = judged(toy, "some", truth=truth), Guarantee(n_boot=100)
    scores = truth.values + 1e-3 * np.random.default_rng(0).normal(size=(n, m))
    scores[3, 2] = np.nan
    frame = metric.evaluate(Influence(values=scores), run).set_index("metric")
    order, kept = run.drawn("calibration").permutation(n), [0, 1, 3, 4, 5]
    off = np.abs(scores - truth.values)[:, kept]
    half = np.sort(off[order[n // 2 :]].ravel())[94]  # 100 cells of 20 rows: 0.9 * 21 / 20 of them is 94.5
    assert frame.value["guarantee"] == pytest.approx(half)
    assert frame.value["guarantee_coverage"] == pytest.approx((off[order[: n // 2]] <= half).mean())
    for name in ("guarantee", "guarantee_coverage", "guarantee_gain"):
        assert "1 of 6 test instances degenerate" in frame.note[name] and "1 of 6" in frame.protocol[name]
    assert frame.value["guarantee_stability_held"] == 1 and frame.value["guarantee_stability"] > 0
    centre = float(np.median(truth.values[order[n // 2 :]]))
    flat = metric.evaluate(Influence(values=np.full((n, m), centre)), run).set_index("metric").loc["guarantee_gain"]
    assert (flat.value, flat.ci_low, flat.ci_high) == (0, 0, 0)  # the same in every resample


def test_an_exact_value_is_called_what_it_is(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table(), Logistic())
    values = np.zeros((9, 4))
    values[:3] = np.nan
    for name, settings, said in (
        ("loo", {"budget": 6}, "leave-one-out"),
        ("knn_shapley", {}, "Shapley value"),
        ("knn_shapley", {"semivalue": "banzhaf"}, "exact; banzhaf semivalue"),
        ("cooks_distance", {"variant": "one_step"}, ""),
    ):
        run = judged(toy, name, toys.estimator_named(name, settings))
        row = Guarantee().evaluate(Influence(values=values), run).set_index("metric").loc["guarantee"]
        assert (row.status == "ok") == bool(said) and said in row.protocol
        assert row.n == (6 * 4 if said else 0)


def test_a_concentration_bound_needs_bounded_and_independent_draws(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table(), Logistic())
    report = {"fewest_models_with": 40, "fewest_models_without": 60, "players": 9}

    def found(name: str, **settings: Any) -> Concentration | str:
        run = judged(toy, name, toys.estimator_named(name, {"target": "zero_one"} | settings))
        return concentration(Influence(values=np.zeros((9, 4)), report=report), run, 0.9)

    def half(name: str, **settings: Any) -> float:
        bound = found(name, **settings)
        assert not isinstance(bound, str)
        return bound.half

    assert half("downsampling") == pytest.approx(hoeffding(1.0, (40, 60), 0.9))
    permutations = {"truncation": 0, "permutations": 100}
    assert half("tmc_shapley", **permutations, empty_value=0.5) == pytest.approx(hoeffding(2.0, (50,), 0.9))
    assert "estimator.empty_value" in str(found("tmc_shapley", **permutations, empty_value=3.0))
    assert "estimator.truncation" in str(found("tmc_shapley"))
    assert "target=zero_one" in str(found("downsampling", target="loss"))
    assert "independent draws" in str(concentration(Influence(values=np.zeros((9, 4))), judged(toy, "loss"), 0.9))


def test_one_line_says_which_guarantee() -> None:
    row = {"estimator": "e", "status": "ok", "ci_low": 0.8, "ci_high": 0.95, "note": ""}
    calibrated = row | {"metric": "guarantee", "value": 0.5, "protocol": "calibrated; level 0.9; x"}
    coverage = row | {"metric": "guarantee_coverage", "value": 0.91, "protocol": ""}
    said = guarantee_line([calibrated, coverage], "e")
    assert said.startswith("calibrated: value ± ") and "level 0.9" in said and "measured coverage" in said
    gain = row | {"metric": "guarantee_gain", "value": -0.2, "protocol": ""}
    assert "no narrower than around a constant" in guarantee_line([calibrated, coverage, gain], "e")
    assert guarantee_line([calibrated, coverage, gain | {"value": 0.2}], "e") == said
    exact = calibrated | {"protocol": "exact; leave-one-out of x; up to rounding", "value": 0.0}
    assert guarantee_line([exact], "e") == "exact: leave-one-out of x"
    certificate = row | {"metric": "certified_radius_k50", "value": 14.0, "protocol": ""}
    assert "withstand 14" in guarantee_line([certificate], "e")
    assert guarantee_line([exact], "other").startswith("none by construction; guarantee in metric calibrates")


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("loo", {}, "exact: leave-one-out"),
        ("knn_shapley", {"semivalue": "beta"}, "exact: beta semivalue"),
        ("cooks_distance", {"variant": "one_step"}, "none by construction"),
        ("shapley_taylor", {"estimator": "permutation"}, "none: a draw adds up interactions with all players"),
        (
            "downsampling",
            {"target": "zero_one"},
            "concentration: a bound on the distance to the expected risk of models",
        ),
        ("beta_shapley", {"target": "zero_one"}, "concentration: a bound on the distance to the Beta Shapley value"),
        (
            "ame",
            {},
            "none: risks without bounds have no concentration bound and the rule lasso is no difference of means; "
            "with classes set estimator.target=zero_one estimator.rule=ipw; guarantee in metric calibrates",
        ),
        (
            "downsampling",
            {},
            "none: risks without bounds have no concentration bound; with classes set estimator.target=zero_one",
        ),
        ("tmc_shapley", {"target": "zero_one"}, "none: truncation"),
        ("tracincp", {}, "none by construction; guarantee in metric calibrates an interval on a ground truth such as"),
    ],
)
def test_without_a_metric_the_construction_says_which(name: str, changed: dict[str, Any], said: str) -> None:
    settings = {key: value for key, value in load_choice("estimator", name).items() if key != "_target_"} | changed
    assert guarantee_line([], name, settings).startswith(said)
    given = by_construction(name, settings, truth=True)
    assert given == guarantee_line([], name, settings, truth=True)
