"""Models that settings are tuned on never judge."""

from __future__ import annotations

import importlib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.config import conf_dir, load_choice
from influx.engines.retrain import keys_of
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.linear.ridge import Ridge
from influx.learners.torch.optimizers import SGD
from influx.metrics.banks import Halves, queries
from influx.metrics.group_removal import GroupRemoval
from influx.metrics.lds import LinearDatamodelingScore
from influx.metrics.qld import QueryLossDifference
from influx.metrics.refit import Judge
from influx.metrics.removal import SubsetRemoval
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from tests.metrics.retrained import prospect_of, run_of

METRICS = ("removal", "qld", "brittleness", "group_removal", "calibration")


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(n_train=20, n_test=20), MLP(width=2), SGD(lr=0.1), epochs=1, batch_size=20)


def test_no_planned_model_is_in_both_banks(toy: Toy) -> None:
    for metric in (SubsetRemoval, QueryLossDifference, GroupRemoval, LinearDatamodelingScore):
        test, tune = (
            {
                key
                for design in metric(bank=bank).plan(prospect_of(toy)).trainings
                for key in keys_of(toy.problem, design)
            }
            for bank in ("test", "tune")
        )
        assert test and tune and not test & tune


def test_tuning_draws_other_subsets_and_groups(toy: Toy) -> None:
    """Also where seeds change nothing, as in a ridge regression."""
    masks = [LinearDatamodelingScore(bank=bank).design(20, 0).weights for bank in ("test", "tune")]
    assert not np.array_equal(*masks)
    for kind in ("random", "alike"):
        members = [GroupRemoval(bank=bank, share=0.3)._members(prospect_of(toy), kind) for bank in ("test", "tune")]
        assert not np.array_equal(*members)


@pytest.mark.parametrize("bank", ["test", "tune"])
def test_tuning_looks_at_the_ranking_half_alone(tmp_path: Path, bank: Any) -> None:
    """Values of other test instances change nothing; ridge, whose seeds have no effect, says so."""
    toy = toys.learned(tmp_path, toys.table("regression", n_train=20, n_test=12), Ridge(weight_decay=0.1))
    values, ranking = np.random.default_rng(0).normal(size=(20, 12)), Judge.of(prospect_of(toy), 1).ranking
    other = values.copy()
    other[:, np.setdiff1d(np.arange(12), ranking)] *= -1
    metrics: Any = (
        LinearDatamodelingScore(bank=bank, subsets=5, n_boot=100),
        GroupRemoval(bank=bank, groups=4, share=0.2, seeds=1, n_boot=100, kinds=["random"]),
    )
    for metric in metrics:
        one, two = (metric.evaluate(Influence(values=v), run_of(toy, metric, "x")).loc[0] for v in (values, other))
        assert (one.value == two.value) == (bank == "tune")
        assert one.n == (6 if bank == "tune" else 12) and f"{one.n} test instances" in one.protocol
        assert "seeds have no effect" in one.protocol and "at most the model on everything" in one.protocol


def test_trainings_of_learners_without_randomness_are_planned_once(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table("regression", n_train=20, n_test=12), Ridge(weight_decay=0.1))
    prospect = prospect_of(toy)
    assert SubsetRemoval(seeds=5).plan(prospect).own_trainings == 2 * 4
    assert QueryLossDifference(seeds=3, tests=4).plan(prospect).own_trainings == 4


@pytest.mark.parametrize(
    "metric", [SubsetRemoval(shares=[0.9]), QueryLossDifference(share=0.9), GroupRemoval(share=0.9)]
)
def test_removing_everything_is_refused(tmp_path: Path, metric: Any) -> None:
    toy = toys.learned(tmp_path, toys.table("regression", n_train=3, n_test=8), Ridge(weight_decay=0.1))
    with pytest.raises(ConfigError, match="leaves none of 3 training instances"):
        metric.plan(prospect_of(toy))


def test_tuning_uses_no_test_instance_that_judges(toy: Toy) -> None:
    test, tune = (Halves.in_bank(prospect_of(toy), 1, bank) for bank in ("test", "tune"))
    assert not set(test.judging) & {*test.ranking, *tune.ranking, *tune.judging}
    assert {*tune.ranking, *tune.judging} == set(test.ranking)
    assert np.array_equal(tune.y, toy.test.y[tune.judging])
    asked = [queries(prospect_of(toy), bank, None) for bank in ("test", "tune")]
    assert not set(asked[0]) & set(asked[1]) and sum(map(len, asked)) == 20
    few = queries(prospect_of(toy), "test", 3, asked[0][:5])
    assert len(few) == 3 and set(few) <= set(asked[0][:5])


def test_too_few_test_instances_are_refused(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_test=6), MLP(width=2), SGD(lr=0.1), epochs=1)
    with pytest.raises(ConfigError, match=r"dataset\.n_test"):
        Halves.in_bank(prospect_of(toy), 1, "tune")


@pytest.mark.parametrize("name", METRICS)
def test_configuration_lists_every_field_with_its_default(name: str) -> None:
    config: dict[str, Any] = dict(load_choice("metric", name))[name]
    module, _, class_name = config.pop("_target_").rpartition(".")
    metric = getattr(importlib.import_module(module), class_name)
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(metric)}
    assert config == defaults
    summary = (conf_dir() / "metric" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert summary.startswith("# ") and len(summary) <= 120
