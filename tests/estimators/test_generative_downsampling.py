"""Memorization of densities: identities, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.errors import ConfigError
from influx.learners.densities.gaussian import Gaussian
from influx.oracles.generative import wine
from influx.oracles.toys import Toy, estimator_named, learned
from tests.estimators.sampled_games import reach_of, run_of

SMALL = {"folds": 4, "repeats": 3}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return learned(tmp_path, wine(), Gaussian(penalty=0.1))


def test_means_of_logarithms_are_differences_of_mean_risks(toy: Toy) -> None:
    estimator: Any = estimator_named("generative_downsampling", {**SMALL, "aggregate": "mean_log"})
    run = toy.run(estimator, "test")
    found = estimator.estimate(run)
    design, _ = estimator.design(run)
    _, test = run.retrain.outcomes(design)
    out = design.weights == 0
    for i in range(20):
        gap = test.loss[out[:, i]].mean(axis=0) - test.loss[~out[:, i]].mean(axis=0)
        assert np.allclose(found.values[i], gap, rtol=1e-10)
    assert set(out.sum(axis=0)) == {3} and run.bank.trained == 12


def test_a_mean_of_densities_is_never_below_the_mean_of_logarithms(toy: Toy) -> None:
    tables = [
        toy.estimate("generative_downsampling", **SMALL, aggregate=a).tables["memorization"]
        for a in ("logmeanexp", "mean_log")
    ]
    for side in ("log_density_with", "log_density_without"):
        assert (tables[0][side] >= tables[1][side]).all() and not np.allclose(tables[0][side], tables[1][side])


def test_an_outlier_is_memorised_most(tmp_path: Path) -> None:
    data = wine()
    data.train.x[3] += 4.0
    found = learned(tmp_path, data, Gaussian(penalty=0.1)).estimate("generative_downsampling", **SMALL)
    assert found.self_influence is not None
    assert found.self_influence.argmax() == 3 and (found.self_influence > 0).mean() > 0.7


def test_intervals_hold_the_exact_value() -> None:
    """Of an additive game: an effect less the mean of the others, which take its place."""
    effects = np.random.default_rng(0).normal(size=(40, 3))
    exact = effects - (effects.sum(axis=0) - effects) / 39
    estimator: Any = estimator_named("generative_downsampling", {"aggregate": "mean_log"})
    hits = []
    for seed in range(30):
        found = estimator.estimate(run_of(lambda masks: 2 - masks @ effects, 40, seed))
        hits.append(np.abs(found.values - exact) <= reach_of(found.report) * found.stderr)
    assert 0.92 <= np.mean(hits) <= 0.98


def test_one_repeat_has_no_standard_error(toy: Toy) -> None:
    found = toy.estimate("generative_downsampling", folds=20, repeats=1)
    assert found.stderr is None and found.tables["memorization"]["stderr"].isna().all()
    assert "stderr_holds" not in found.report


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"folds": 1}, "estimator.folds"),
        ({"folds": 21}, "estimator.folds must be at most the 20"),
        ({"folds": 20, "repeats": 2}, "estimator.folds=20 leaves out one"),
        ({"repeats": 0}, "estimator.repeats"),
        ({"repeats": 2, "seeds": 3}, "estimator.seeds"),
        ({"aggregate": "mean"}, "logmeanexp or mean_log"),
        ({"repeats": 1, "debias": True}, "estimator.debias"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], named: str, toy: Toy) -> None:
    with pytest.raises(ConfigError, match=named):
        toy.estimate("generative_downsampling", **settings)
