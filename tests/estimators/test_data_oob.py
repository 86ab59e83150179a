"""Out-of-bag values of a model that learns the mean, and samples as weights."""

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


def test_of_a_model_that_learns_the_mean_it_is_known(tmp_path: Path) -> None:
    """A sample without i has n draws from the others: the mean's expectation and variance are known."""
    data = toys.table("regression", n_train=8)
    blank = replace(data, train=replace(data.train, x=0 * data.train.x), test=replace(data.test, x=0 * data.test.x))
    toy = toys.train(tmp_path, blank, Linear(), SGD(lr=0.5), batch_size=8, epochs=60)
    y = toy.train.y.astype(float)
    for _, row in toy.estimate("data_oob", models=3000).tables["data_oob"].iterrows():
        place = int(np.flatnonzero(toy.train.ids == row["train_id"])[0])
        others = np.delete(y, place)
        expected = -0.5 * ((y[place] - others.mean()) ** 2 + others.var() / len(y))
        assert abs(row["value"] - expected) < 4.5 * row["stderr"]


def test_samples_have_the_asked_number_of_draws(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=4))
    for fraction, draws in ((1.0, 9), (0.5, 4)):
        estimator = toys.estimator_named("data_oob", {"fraction": fraction})
        weights = estimator.design(toy.run(estimator, "data_oob")).weights  # type: ignore[attr-defined]
        assert set(weights.sum(axis=1)) == {draws} and weights.max() > 1
        assert (weights == 0).mean() == pytest.approx((1 - 1 / 9) ** draws, abs=0.03)
    with pytest.raises(ConfigError, match=r"estimator\.fraction"):
        toy.estimate("data_oob", fraction=0.0)


def test_a_wrong_label_has_the_smallest_value(tmp_path: Path) -> None:
    data = toys.table(n_train=24)
    y = data.train.y.copy()
    y[5] = (y[5] + 1) % 3
    data = replace(data, train=replace(data.train, y=y))
    toy = toys.train(tmp_path, data, MLP(width=6), SGD(lr=0.5), batch_size=24, epochs=30)
    assert toy.estimate("data_oob", models=300).tables["data_oob"]["value"].argmin() == 5
