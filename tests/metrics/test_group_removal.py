"""Groups removed, against normal equations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from influx.engines.retrain import keys_of
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics import group_removal
from influx.metrics.group_removal import GroupRemoval, alike
from influx.models.mlp import MLP
from influx.oracles import linear, toys
from influx.oracles.toys import Toy
from tests.metrics.retrained import prospect_of, run_of, without

N = 40
SETTINGS: dict[str, Any] = {"groups": 8, "share": 0.2, "seeds": 1, "n_boot": 200}


def measured(toy: Toy, values: np.ndarray, scale: Any = "loss", **settings: Any) -> pd.DataFrame:
    metric = GroupRemoval(**(SETTINGS | settings))
    frame = metric.evaluate(Influence(values=values, scale=scale), run_of(toy, metric, "group_removal"))
    return frame.set_index("metric")


@pytest.mark.parametrize("norm", ["full", "subset"])
def test_effects_of_groups_are_those_of_the_normal_equations(tmp_path: Path, norm: Any) -> None:
    toy, refit = linear.ridge(tmp_path)
    values = np.random.default_rng(0).normal(size=(N, 6))
    found = measured(toy, values, loss_norm=norm)
    assert found.protocol.str.contains("bank=test").all()
    before = linear.losses(toy, toy.test, refit(np.ones(N), N))
    for kind in ("random", "alike"):
        members = GroupRemoval(**SETTINGS)._members(prospect_of(toy), kind)
        assert (members.sum(axis=1) == 8).all() and len(np.unique(members, axis=0)) == 8
        truth = np.empty((8, 6))
        for row, group in zip(truth, members, strict=True):
            weights = np.where(group, 0.0, 1.0)
            row[:] = linear.losses(toy, toy.test, refit(weights, N if norm == "full" else weights.sum())) - before
        estimate = np.array([values[group].sum(axis=0) for group in members])
        expected = np.mean([stats.spearmanr(estimate[:, j], truth[:, j]).statistic for j in range(6)])
        assert found.value[f"group_rank_{kind}"] == pytest.approx(expected, abs=1e-12)
        slope = np.polyfit(estimate.ravel(), truth.ravel(), 1)[0]
        assert found.value[f"group_slope_{kind}"] == pytest.approx(slope, rel=1e-6)
        assert found.status[f"group_reliability_{kind}"] == "not applicable"


def test_sums_of_exact_effects_order_groups_well_and_are_too_small(tmp_path: Path) -> None:
    toy, refit = linear.ridge(tmp_path)
    before = linear.losses(toy, toy.test, refit(np.ones(N), N))
    alone = np.array([linear.losses(toy, toy.test, theta) - before for theta in linear.deleted(refit, N)])
    found = measured(toy, alone, groups=30, share=0.1)
    for kind in ("random", "alike"):
        assert found.ci_low[f"group_rank_{kind}"] > 0.7
        assert found.value[f"group_slope_{kind}"] > 1
    doubled = measured(toy, 2 * alone, groups=30, share=0.1)
    for bound in ("value", "ci_low", "ci_high"):
        half = found[bound]["group_slope_random"] / 2
        assert doubled[bound]["group_slope_random"] == pytest.approx(half, rel=1e-9)


def test_the_mean_over_seeds_and_its_reliability(tmp_path: Path) -> None:
    data = toys.table(n_train=12, n_test=5)
    toy = toys.train(tmp_path, data, MLP(width=3), SGD(lr=0.3), batch_size=12)
    values, settings = np.random.default_rng(0).normal(size=(12, 5)), {"groups": 4, "share": 0.25, "kinds": ["random"]}
    found = measured(toy, values, seeds=2, **settings)
    members = GroupRemoval(**settings)._members(prospect_of(toy), "random")
    truth = np.array(
        [
            [without(toy, np.flatnonzero(group), seed, "full").loss - without(toy, [], seed).loss for group in members]
            for seed in (0, 1)
        ]
    )
    estimate = np.array([values[group].sum(axis=0) for group in members])
    both = truth.mean(axis=0)
    expected = np.mean([stats.spearmanr(estimate[:, j], both[:, j]).statistic for j in range(5)])
    assert found.value["group_rank_random"] == pytest.approx(expected, abs=1e-12)
    between = np.mean([stats.spearmanr(truth[0, :, j], truth[1, :, j]).statistic for j in range(5)])
    assert found.value["group_reliability_random"] == pytest.approx(2 * between / (1 + between), abs=1e-12)


def test_like_instances_are_the_nearest_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, ids = rng.normal(size=(30, 2, 2)), 100 + np.arange(30)
    groups = alike(x, ids, 5, 40, np.random.default_rng(1))
    centres = set()
    for group in groups:
        inside = np.flatnonzero(group)
        fits = [
            c
            for c in inside
            if set(np.argsort(((x - x[c]) ** 2).sum(axis=(1, 2)))[:5].tolist()) == set(inside.tolist())
        ]
        assert fits
        centres |= set(fits)
    assert len(centres) == 30  # every instance is a centre before one is again
    order = rng.permutation(30)
    assert np.array_equal(alike(x[order], ids[order], 5, 40, np.random.default_rng(1)), groups[:, order])
    monkeypatch.setattr(group_removal, "CHUNK", 28)  # seven instances at a time
    assert np.array_equal(alike(x, ids, 5, 40, np.random.default_rng(1)), groups)
    copies = alike(np.zeros((4, 1)), ids[:4], 1, 4, np.random.default_rng(1))
    assert sorted(copies.argmax(axis=1)) == [0, 1, 2, 3]  # a centre is in its group, copies or not


def test_what_cannot_be_had_has_a_reason_instead_of_a_number(tmp_path: Path) -> None:
    toy, _ = linear.ridge(tmp_path)
    values = np.random.default_rng(0).normal(size=(N, 6))
    ranks = measured(toy, values, scale="rank")
    assert ranks.status["group_slope_alike"] == "not applicable" and "rank" in ranks.note["group_slope_alike"]
    flat = measured(toy, np.ones((N, 6)), kinds=["random"])
    assert flat.status["group_rank_random"] == flat.status["group_slope_random"] == "degenerate"
    sparse = np.zeros((N, 6))  # no group holds the only instance of column 0 that has influence
    members = GroupRemoval(**SETTINGS)._members(prospect_of(toy), "random")
    sparse[:, 1:] = values[:, 1:]
    sparse[np.flatnonzero(~members.any(axis=0))[0], 0] = 1.0
    uneven = measured(toy, sparse, kinds=["random"])
    assert (uneven.n[["group_rank_random", "group_slope_random"]] == 5).all()
    assert uneven.note["group_rank_random"].startswith("1 of 6 test instances degenerate")
    sparse[:, 1:] = 0.0
    alone = measured(toy, sparse, kinds=["random"])
    assert alone.status["group_slope_random"] == "degenerate"
    sparse[:, 1] = values[:, 1]
    single = measured(toy, sparse, kinds=["random"]).loc["group_slope_random"]
    assert np.isfinite(single.value) and np.isnan([single.ci_low, single.ci_high]).all() and "single" in single.note
    values[0, 1] = np.nan
    partly = measured(toy, values)
    assert (partly.n[["group_rank_random", "group_slope_random"]] == 5).all()
    assert "1 of 6 test instances degenerate" in partly.note["group_slope_random"]
    values[0] = np.nan
    missing = measured(toy, values)
    assert len(missing) == 6 and (missing.status == "not applicable").all()
    texts = replace(toy.problem, data=replace(toy.problem.data, kind="text"))
    metric = GroupRemoval(kinds=["alike"])
    run = replace(run_of(toy, metric, "group_removal"), problem=texts)
    frame = metric.evaluate(Influence(values=np.ones((N, 6))), run)
    assert len(frame) == 3 and (frame.status == "not applicable").all() and frame.note.str.contains("texts").all()
    assert not metric.plan(replace(prospect_of(toy), problem=texts)).more_trainings


def test_the_plan_names_the_models_that_are_trained(tmp_path: Path) -> None:
    toy, _ = linear.ridge(tmp_path)
    metric = GroupRemoval(**(SETTINGS | {"seeds": 2}))
    run, planned = run_of(toy, metric, "group_removal"), metric.plan(prospect_of(toy))
    metric.evaluate(Influence(values=np.random.default_rng(0).normal(size=(N, 6))), run)
    assert not any(len(run.bank.missing(design)) for design in planned.trainings)
    listed = {key for design in planned.trainings for key in keys_of(toy.problem, design)}
    assert run.bank.requested == len(listed) + planned.more_trainings == 2 * 8 + 1  # ridge has no seeds
    assert GroupRemoval(**SETTINGS, kinds=["alike"]).plan(prospect_of(toy)).more_trainings == 8 + 1


@pytest.mark.parametrize(
    "settings", [{"kinds": []}, {"groups": 2}, {"share": 1.0}, {"seeds": 0}, {"bank": "x"}, {"loss_norm": "x"}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.group_removal\.{next(iter(settings))}"):
        GroupRemoval(**settings)
