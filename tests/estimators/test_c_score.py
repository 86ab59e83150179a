"""Consistency: large for typical instances, from models that leave the instance out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.errors import ConfigError
from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import estimator_named


def test_a_wrong_label_has_the_smallest_score(tmp_path: Path) -> None:
    data = toys.table(n_train=24)
    y = data.train.y.copy()
    y[5] = (y[5] + 1) % 3
    data = replace(data, train=replace(data.train, y=y))
    toy = toys.train(tmp_path, data, MLP(width=6), SGD(lr=0.5), batch_size=24, epochs=30)
    scores = toy.estimate("c_score").tables["c_score"]
    assert scores[scores["split"] == "train"]["score"].argmin() == 5


def test_of_a_model_that_learns_the_mean_it_is_known(tmp_path: Path) -> None:
    """Without inputs, the fit is the mean of the subset's targets; its expected square error is known."""
    data = toys.table("regression", n_train=10)
    blank = replace(data, train=replace(data.train, x=0 * data.train.x), test=replace(data.test, x=0 * data.test.x))
    toy = toys.train(tmp_path, blank, Linear(), SGD(lr=0.5), batch_size=10, epochs=60)
    found = toy.estimate("c_score", sizes=[0.4], runs=2000).tables["consistency"]
    y, size = toy.train.y.astype(float), 4
    for split, targets in (("train", y), ("test", toy.test.y.astype(float))):
        for place, (_, row) in enumerate(found[found["split"] == split].iterrows()):
            others = np.delete(y, place) if split == "train" else y
            variance = others.var(ddof=1) / size * (1 - size / len(others))
            expected = -0.5 * ((targets[place] - others.mean()) ** 2 + variance)
            assert abs(row["score"] - expected) < 4.5 * row["stderr"]


def test_sizes_that_fall_together_count_once(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=4))
    found = toy.estimate("c_score", sizes=[0.01, 0.1, 0.11, 0.99], runs=30)
    assert found.report["sizes"] == "1, 8" and found.report["models"] == 60


def test_scores_without_a_model_that_leaves_the_instance_out_are_missing(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=4))
    estimator = estimator_named("c_score", {"sizes": [0.5, 0.9], "runs": 6})
    run = toy.run(estimator, "c_score")
    scores = estimator.estimate(run).tables["c_score"]
    train = scores[scores["split"] == "train"]["score"]
    assert 0 < train.isna().sum() < len(train) and "raise estimator.runs" in run.warnings[0]
    assert scores[scores["split"] == "test"]["score"].notna().all()


@pytest.mark.parametrize("settings", [{"sizes": []}, {"sizes": [1.0]}, {"runs": 3}])
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"estimator\.{next(iter(settings))}"):
        estimator_named("c_score", settings)
