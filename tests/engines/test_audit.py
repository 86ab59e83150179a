"""The audit of a derivative finds what is wrong with it, and growth tells a chaotic training from a calm one."""

from __future__ import annotations

from pathlib import Path as Folder

import numpy as np
import pytest

from influx.engines.audit import SENSITIVE, audit, chosen, sensitivity
from influx.engines.path import Path
from influx.engines.unrolled import Growth
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles.retraining import leave_one_out
from influx.oracles.toys import Toy, estimator_named, table, train

CALM, CHAOTIC = SGD(lr=0.1, weight_decay=0.3), SGD(lr=1.0, momentum=0.9)


def trained(below: Folder, optimizer: SGD, **settings: object) -> Toy:
    return train(below, table(), MLP(width=4), optimizer, **{"epochs": 6} | settings)


@pytest.mark.parametrize(("factor", "error"), [(1.0, 0.0), (2.0, 1.0), (0.0, 1.0), (-1.0, 2.0)])
def test_a_wrong_derivative_is_found(factor: float, error: float, tmp_path: Folder) -> None:
    toy = trained(tmp_path, CALM)
    values = factor * toy.estimate("magic", audit=0).values
    report, doubts = audit(Path(toy.fitted), toy.train, toy.test, values, 3, True)
    assert report["audited"] == 3
    assert report["derivative_error"] == pytest.approx(error, abs=1e-5)
    assert any("finite differences" in doubt for doubt in doubts) is (error > 0)


def test_removals_are_real_ones(tmp_path: Folder) -> None:
    toy = trained(tmp_path, CALM)
    removed, values = leave_one_out(toy)[0], toy.estimate("magic", audit=0).values
    path = Path(toy.fitted)
    report, _ = audit(path, toy.train, toy.test, values, 2, False)
    rows = chosen(values, 2)
    expected = np.linalg.norm(values[rows] - removed[rows]) / np.linalg.norm(removed[rows])
    assert report == {"audited": 2, "removal_error": pytest.approx(expected, rel=1e-8)}
    report, doubts = audit(path, toy.train, toy.test, removed, 4, False)
    assert report["removal_error"] < 1e-10 and not doubts
    report, doubts = audit(path, toy.train, toy.test, 3 * removed, 4, False)
    assert report["removal_error"] == pytest.approx(2)
    assert "really removing 4 instances" in doubts[0] and "200%" in doubts[0]


def test_instances_are_found_by_identity(tmp_path: Folder) -> None:
    toy = trained(tmp_path, CALM)
    order = np.array([4, 7, 0])
    few, removed = toy.train.take(order), leave_one_out(toy)[0][order]
    report, _ = audit(Path(toy.fitted), few, toy.test, removed, 3, False)
    assert report["removal_error"] < 1e-10


def test_the_most_influential_instance_and_the_median_are_chosen() -> None:
    values = np.diag([3.0, 0.0, 9.0, 1.0, 5.0])
    assert chosen(values, 0) == []
    assert chosen(values, 1) == [2]
    assert chosen(values, 2) == [2, 0]
    assert chosen(values, 9) == [2, 4, 0]
    values[2] = np.nan
    assert chosen(values, 2) == [4, 3]
    assert chosen(np.full((2, 3), np.nan), 2) == []


@pytest.mark.parametrize("name", ["hydra", "magic", "sgd_influence"])
def test_a_chaotic_training_is_told_from_a_calm_one(name: str, tmp_path: Folder) -> None:
    estimator, growths = estimator_named(name), {}
    for optimizer in (CALM, CHAOTIC):
        run = trained(tmp_path, optimizer).run(estimator, name)
        growths[optimizer] = estimator.estimate(run).report["growth"]
        said = " ".join(run.warnings)
        assert ("training is sensitive" in said) is ("really removing" in said) is (optimizer is CHAOTIC)
    assert growths[CALM] < SENSITIVE < 2 < growths[CHAOTIC]


def test_the_growth_per_step() -> None:
    report, doubts = sensitivity(Growth({10: (2.0, 2), 5: (9.0, 1), 0: (np.exp(4.0), 1)}), 10)
    assert report == pytest.approx({"growth": 2.0, "growth_per_step": 0.2})
    assert "grows 7.39-fold" in doubts[0]
    assert sensitivity(Growth({10: (1.0, 1), 0: (np.exp(SENSITIVE), 1)}), 10)[1] == []
