"""Memorization of densities: identities, and what is refused."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.densities.gaussian import Gaussian
from influx.models.autoregressive import Autoregressive
from influx.models.text_decoder import TextDecoder
from influx.models.vae import VAE
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


@pytest.mark.parametrize("debias", [False, True])
def test_intervals_of_mean_densities_nearly_hold_where_they_differ_by_half_a_nat(debias: bool) -> None:
    effects = 0.25 * np.random.default_rng(0).normal(size=(40, 3))

    def found(repeats: int, seed: int, **settings: Any) -> Influence:
        estimator: Any = estimator_named("generative_downsampling", {"repeats": repeats, **settings})
        return estimator.estimate(run_of(lambda masks: 2 - masks @ effects, 40, seed))  # type: ignore[no-any-return]

    many = found(400, 99).values
    few = [found(10, seed, debias=debias) for seed in range(15)]
    hits = [np.abs(one.values - many) <= reach_of(one.report) * one.stderr for one in few]
    assert 0.91 <= np.mean(hits) <= 0.97
    bias = np.mean([one.values - many for one in few])
    assert abs(bias) < 0.004 if debias else 0.004 < bias < 0.03


def test_densities_that_differ_too_much_are_warned_of() -> None:
    effects, said = np.random.default_rng(0).normal(size=(40, 3)), []
    for size, aggregate in ((0.1, "logmeanexp"), (1.0, "logmeanexp"), (1.0, "mean_log")):
        run = run_of(lambda masks, size=size: 2 - masks @ (size * effects), 40, 0)
        run.warn = said.append
        estimator: Any = estimator_named("generative_downsampling", {"aggregate": aggregate})
        report = estimator.estimate(run).report
        assert ("bias" in report) == (aggregate == "logmeanexp")
    (sentence,) = said
    assert "more than 1 nat" in sentence and "estimator.aggregate=mean_log" in sentence


@pytest.mark.parametrize(
    ("seeds", "degrees", "held"),
    [
        (1, 5, "under one seed of training"),
        (2, 5, "the 2 seeds of training, which repeats share, is not held"),
        (3, 2, "draw of seeds of training (3)"),
        (6, 5, "draw of seeds of training (6)"),
    ],
)
def test_repeats_that_share_a_seed_are_one_group(seeds: int, degrees: int, held: str) -> None:
    effects = np.random.default_rng(0).normal(size=(20, 2))
    estimator: Any = estimator_named("generative_downsampling", {"repeats": 6, "seeds": seeds, "aggregate": "mean_log"})
    run = run_of(lambda masks: 2 - masks @ effects, 20, 0, between=1.0)
    report = estimator.estimate(run).report
    assert report["stderr_degrees"] == degrees and held in report["stderr_holds"]


def test_the_plan_knows_the_memory() -> None:
    """Of sums of logarithms of many instances, which are taken some at a time."""
    estimator: Any = estimator_named("generative_downsampling", {})
    run = run_of(lambda masks: masks @ np.ones((300, 200)), 300, 0)
    planned = estimator.plan(run)
    tracemalloc.start()
    estimator.estimate(run)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.8 * peak < planned.bytes < 1.6 * peak, (peak, planned.bytes)


@pytest.mark.parametrize(
    ("model", "named", "warned"),
    [
        (VAE(evaluation_draws=4), "elbo", 0),
        (VAE(bound="importance", evaluation_draws=4), "importance (4 draws)", 0),
        (VAE(beta=2.0), "elbo with beta=2, no bound of a density", 1),
        (Autoregressive(), "exact", 0),
        (TextDecoder(), "mean over tokens", 0),
        (object(), "whatever the model returns", 0),
    ],
)
def test_what_the_risk_is_is_reported(model: Any, named: str, warned: int) -> None:
    run, said = run_of(lambda masks: masks @ np.ones((20, 2)), 20, 0), []
    run.problem.data = replace(run.problem.data, task="density")
    run.problem.learner, run.warn = SimpleNamespace(model=model), said.append
    estimator: Any = estimator_named("generative_downsampling", {"repeats": 2})
    assert estimator.estimate(run).report["log_density"] == named
    assert len(said) == warned


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
        ({"repeats": 2, "debias": True}, "estimator.debias=true needs 3"),
        ({"folds": 20, "repeats": 2, "seeds": 2}, "estimator.repeats=1 estimator.seeds=1"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], named: str, toy: Toy) -> None:
    with pytest.raises(ConfigError, match=named):
        toy.estimate("generative_downsampling", **settings)
