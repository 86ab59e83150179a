"""The prediction that datamodels make, and how it does on models that were held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from influx.engines import subsets
from influx.errors import ConfigError
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=4), SGD(lr=0.3), batch_size=9)


def test_intercept_less_influences_predicts_the_risk_on_new_subsets(toy: Toy) -> None:
    found = toy.estimate("datamodels", target="loss")
    masks = subsets.bernoulli(toy.train.ids, 0.5, 300, np.random.default_rng(7))
    _, test = toy.problem.learner.retrain(toy.problem.data, 0, subsets.turns(masks, 1))
    table = found.tables["datamodels"]
    predicted = table["intercept"].to_numpy() - masks @ found.values
    r2 = 1 - np.square(test.loss - predicted).sum(axis=0) / np.square(test.loss - test.loss.mean(axis=0)).sum(axis=0)
    lds = [spearmanr(predicted[:, j], test.loss[:, j]).statistic for j in range(test.loss.shape[1])]
    assert np.allclose(table["r2"], r2, atol=0.15) and (r2 > 0.3).all()
    assert np.allclose(table["lds"], lds, atol=0.12)


def test_errors_are_as_large_as_the_spread_over_samples(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator: Any = estimator_named("datamodels", {"target": "loss", "models": 300})
    runs = [estimator.estimate(toy.run(estimator, f"sample {number}")) for number in range(12)]
    spread = np.std([run.values for run in runs], axis=0, ddof=1).mean()
    assert 0.7 < np.mean([run.stderr for run in runs]) / spread < 1.4


def test_held_out_models_must_be_some(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"estimator\.held_out"):
        toy.estimate("datamodels", held_out=0.001)
    with pytest.raises(ConfigError, match=r"estimator\.alpha"):
        toy.estimate("datamodels", alpha=1.0)
