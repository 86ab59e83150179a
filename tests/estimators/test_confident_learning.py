"""Label quality on a problem whose wrong labels are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.datasets.corruption.label_noise import LabelNoise
from influx.errors import ConfigError, IncompatibleError
from influx.estimators.baseline.confident_learning import ConfidentLearning
from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.oracles import toys


def test_wrong_labels_have_low_confidence_and_are_named(tmp_path: Path) -> None:
    data = LabelNoise(fraction=0.1).apply(toys.bundled("iris", 120, 20), 0)
    toy = toys.train(tmp_path, data, Linear(), SGD(lr=0.3), epochs=20, batch_size=20)
    found, wrong = toy.estimate("confident_learning"), data.flags["mislabeled"]
    assert found.self_influence is not None
    order = np.argsort(-found.self_influence)
    assert wrong[order[: wrong.sum()]].mean() >= 0.8
    table = found.tables["confident_learning"]
    assert np.allclose(found.values, table["self_confidence"].to_numpy()[:, None])
    assert np.allclose(found.self_influence, 1 - table["self_confidence"])
    assert table["issue"][wrong].mean() >= 0.8 and table["issue"][~wrong].mean() <= 0.1
    right = data.flags["original_label"] == table["held_out_label"]
    assert right.mean() >= 0.9
    for label, rows in table.groupby("label"):
        assert (rows["threshold"] - rows["self_confidence"].mean()).abs().max() < 1e-12, label
    assert found.report["issues"] == table["issue"].sum()


def test_it_refuses_a_regression_before_any_training(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression"), Linear(), SGD(lr=0.05))
    with pytest.raises(IncompatibleError, match="is a regression"):
        toy.estimate("confident_learning")


@pytest.mark.parametrize("settings", [{"folds": 1}, {"seeds": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"estimator\.{next(iter(settings))}"):
        ConfidentLearning(**settings)
