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
from tests.estimators.sampled_games import run_of


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


def test_the_lasso_is_kept_and_its_error_says_what_it_lacks(toy: Toy) -> None:
    lasso, corrected = (toy.estimate("datamodels", models=100, path=4, debias=debias) for debias in (False, True))
    count = (lasso.values != 0).sum(axis=0)
    for found in (lasso, corrected):
        assert (found.tables["datamodels"]["nonzero"] == count).all()
    assert (corrected.values != 0).all() and (corrected.stderr > 0).all()
    assert "shrinkage" in lasso.report["stderr_holds"] and "shrinkage" not in corrected.report["stderr_holds"]


def test_models_that_judge_the_fit_have_not_chosen_it() -> None:
    """Other risks of the last half of the held-out models change R², not the penalty."""
    estimator: Any = estimator_named("datamodels", {"models": 80, "held_out": 0.5, "debias": False, "target": "loss"})
    effects = np.random.default_rng(0).normal(size=(40, 5))
    masks = estimator.design(run_of(lambda weights: weights @ effects, 40, 0)).weights
    judging = {row.tobytes() for row in masks[60:].astype(float)}

    def tables(noise: float) -> Any:
        def game(weights: np.ndarray) -> np.ndarray:
            last = np.array([row.tobytes() in judging for row in weights])[:, None]
            return weights @ effects + noise * last * np.sin(99 * weights @ effects)

        return estimator.estimate(run_of(game, 40, 0)).tables["datamodels"]

    clean, noisy = tables(0.0), tables(9.0)
    assert (clean["penalty"] == noisy["penalty"]).all() and (clean["r2"] > noisy["r2"]).all()


def test_held_out_models_must_be_some(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"estimator\.held_out"):
        toy.estimate("datamodels", held_out=0.001)
    with pytest.raises(ConfigError, match=r"estimator\.alpha"):
        toy.estimate("datamodels", alpha=1.0)
