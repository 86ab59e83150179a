"""Both rules estimate one value; least squares with less error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.engines import subsets
from influx.errors import ConfigError
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=4), SGD(lr=0.3), batch_size=9)


@pytest.fixture(scope="module")
def exact(toy: Toy) -> np.ndarray:
    """The definition, from models of all 512 subsets."""
    n = len(toy.train)
    masks = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.uint8)
    _, test = toy.problem.learner.retrain(toy.problem.data, 0, subsets.turns(masks, 1))
    rows = np.arange(2**n)
    return np.stack([(test.loss[rows & ~(1 << i)] - test.loss[rows | (1 << i)]).mean(axis=0) for i in range(n)])


@pytest.mark.parametrize("rule", ["msr", "ols"])
def test_intervals_hold_the_exact_value(toy: Toy, exact: np.ndarray, rule: str) -> None:
    found = toy.estimate("banzhaf", rule=rule, models=2000)
    assert found.stderr is not None
    z = (found.values - exact) / found.stderr
    assert (np.abs(z) < 1.96).mean() > 0.8 and np.abs(z).max() < 4.5  # one draw; coverage is in test_coverage


def test_least_squares_has_less_error(toy: Toy, exact: np.ndarray) -> None:
    errors = {r: np.abs(toy.estimate("banzhaf", rule=r, models=300).values - exact).mean() for r in ("msr", "ols")}
    assert errors["ols"] < 0.8 * errors["msr"]


def test_least_squares_on_few_models_warns(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=4))
    for models, warned in ((26, True), (27, False)):
        estimator = estimator_named("banzhaf", {"rule": "ols", "models": models})
        run = toy.run(estimator, "banzhaf")
        estimator.estimate(run)
        assert any("raise estimator.models to 27" in sentence for sentence in run.warnings) == warned


def test_least_squares_needs_more_models_than_instances(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_train=30), MLP(width=4))
    with pytest.raises(ConfigError, match=r"estimator\.rule=ols needs more models than 31"):
        toy.estimate("banzhaf", rule="ols", models=31)
    with pytest.raises(ConfigError, match=r"estimator\.p must be between"):
        toy.estimate("banzhaf", p=1.0)
