"""Certificates against every way to change votes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.linear.logistic import Logistic
from influx.metrics.certified_removal import CertifiedRemoval, certified, median_interval, parts_of
from influx.oracles import toys
from tests.metrics.retrained import run_of, without


def radius_by_enumeration(models: tuple[int, ...], classes: int) -> int:
    """The most models that may change, in any way, without another winner (first class among equals)."""

    def winner(votes: tuple[int, ...]) -> int:
        return int(np.bincount(votes, minlength=classes).argmax())

    for size in range(1, len(models) + 1):
        for changed in combinations(range(len(models)), size):
            for new in product(range(classes), repeat=size):
                votes = list(models)
                for model, vote in zip(changed, new, strict=True):
                    votes[model] = vote
                if winner(tuple(votes)) != winner(models):
                    return size - 1
    return len(models)


@pytest.mark.parametrize(("models", "classes"), [(3, 2), (4, 3), (5, 3)])
def test_radius_is_that_of_all_changes(models: int, classes: int) -> None:
    every = sorted({tuple(sorted(votes)) for votes in product(range(classes), repeat=models)})
    counts = np.array([np.bincount(votes, minlength=classes) for votes in every])
    winner, radius = certified(counts)
    assert winner.tolist() == counts.argmax(axis=1).tolist()
    assert radius.tolist() == [radius_by_enumeration(votes, classes) for votes in every]


def test_certified_accuracy_is_that_of_models_trained_one_at_a_time(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table(n_train=24, n_test=12), Logistic(weight_decay=0.1))
    metric = CertifiedRemoval(partitions=[3], budgets=[0, 1])
    frame = metric.evaluate(Influence(values=np.zeros((24, 12))), run_of(toy, metric, "certified_removal"))
    value, parts = frame.set_index("metric").value, parts_of(toy.train.x, 3)
    votes = np.stack([without(toy, np.flatnonzero(parts != part), 0).prediction for part in range(3)]).astype(int)
    held = []
    for column, label in zip(votes.T, toy.test.y, strict=True):
        right = np.bincount(column, minlength=3).argmax() == label
        held.append(radius_by_enumeration(tuple(column.tolist()), 3) if right else -1)
    assert set(held) >= {-1, 1}
    assert value["certified_k3_0"] == np.mean(np.array(held) >= 0)
    assert value["certified_k3_1"] == np.mean(np.array(held) >= 1)
    assert value["certified_radius_k3"] == np.median(held)
    assert value["certified_single"] == np.mean(without(toy, [], 0).prediction == toy.test.y)


def poisoned(tmp_path: Path, flags: dict[str, Any], test_flags: dict[str, Any]) -> tuple[toys.Toy, pd.DataFrame]:
    data = replace(toys.table(n_train=24, n_test=12), flags=flags, test_flags=test_flags)
    toy, metric = toys.learned(tmp_path, data, Logistic(weight_decay=0.1)), CertifiedRemoval(partitions=[3])
    frame = metric.evaluate(Influence(values=np.zeros((24, 12))), run_of(toy, metric, "certified_removal"))
    return toy, frame.set_index("metric")


def test_an_attack_is_counted_where_it_is_aimed(tmp_path: Path) -> None:
    guilty, carries = np.arange(24) == 3, np.arange(12) < 9
    toy, found = poisoned(tmp_path, {"backdoor": guilty}, {"backdoor": carries})
    wanted = toy.train.y[3]
    aimed = carries & (toy.test.y != wanted)
    reached = (without(toy, [], 0).prediction == wanted)[aimed]
    assert found.value["certified_attack_single"] == reached.mean() and found.n["certified_attack_k3"] == aimed.sum()
    assert found.value["certified_poison_k3"] == found.value["certified_k3_1"]  # one instance is poisoned
    assert found.n["certified_single"] == 12


def test_targets_have_the_label_that_the_attacker_wants_and_do_not_judge_accuracy(tmp_path: Path) -> None:
    target = np.arange(12) < 4
    toy, found = poisoned(tmp_path, {"poison": np.arange(24) < 2}, {"target": target})
    right = without(toy, [], 0).prediction == toy.test.y
    assert found.value["certified_attack_single"] == right[target].mean()
    assert found.value["certified_single"] == right[~target].mean() and found.n["certified_k3_0"] == 8
    assert found.value["certified_poison_k3"] == found.value["certified_k3_2"]
    judging = ["certified_k3_0", "certified_radius_k3", "certified_poison_k3", "certified_single"]
    assert found.protocol[judging].str.contains("4 targets left out").all()
    assert not found.protocol[["certified_attack_k3", "certified_attack_single"]].str.contains("left out").any()


def test_targets_alone_judge_no_accuracy(tmp_path: Path) -> None:
    _, found = poisoned(tmp_path, {"poison": np.arange(24) < 2}, {"target": np.ones(12, bool)})
    attack = found.index.str.contains("attack")
    assert (found.status[attack] == "ok").all() and (found.status[~attack] == "not applicable").all()
    assert (found.note[~attack] == "all test instances are targets; lower corruption.targets").all()


def test_a_backdoor_that_no_test_instance_carries_has_no_success_to_count(tmp_path: Path) -> None:
    _, found = poisoned(tmp_path, {"backdoor": np.arange(24) == 3}, {})
    assert found.status["certified_attack_k3"] == "not applicable" and "half" in found.note["certified_attack_single"]


def test_the_part_of_an_instance_depends_on_its_inputs_alone() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    parts = parts_of(x, 7)
    order = np.random.default_rng(1).permutation(50)
    assert (parts_of(x[order], 7) == parts[order]).all() and set(parts) <= set(range(7)) and len(set(parts)) > 3
    assert (parts_of(x[::2], 7) == parts[::2]).all()


def test_the_median_interval_covers() -> None:
    rng = np.random.default_rng(0)
    ends = np.array([median_interval(rng.integers(0, 1001, 41)) for _ in range(400)])
    assert 0.93 <= ((ends[:, 0] <= 500) & (ends[:, 1] >= 500)).mean() <= 1


@pytest.mark.parametrize("settings", [{"partitions": [1]}, {"partitions": [5, 5]}, {"budgets": []}])
def test_settings_out_of_range_are_refused(settings: dict[str, list[int]]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.certified_removal\.{next(iter(settings))}"):
        CertifiedRemoval(**settings)
