"""One density is the Banzhaf value; densities are drawn in rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.errors import ConfigError
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(), MLP(width=4), SGD(lr=0.3), batch_size=9)


def test_densities_come_equally_often_and_subsets_follow_them(toy: Toy) -> None:
    estimator: Any = estimator_named("ame", {"models": 2000})
    design, density = estimator.design(toy.run(estimator, "ame"))
    assert np.bincount(density).tolist() == [500] * 4
    sizes = [design.weights[density == k].mean() for k in range(4)]
    assert np.allclose(sizes, [0.2, 0.4, 0.6, 0.8], atol=0.03)
    assert not (density.reshape(-1, 4) == density[:4]).all()


def test_at_one_half_both_rules_are_banzhaf_values(toy: Toy) -> None:
    banzhaf = toy.estimate("banzhaf", models=4000, rule="ols")
    simple, shrunk = (toy.estimate("ame", models=4000, probabilities=[0.5], rule=r) for r in ("ipw", "lasso"))
    assert simple.stderr is not None and banzhaf.stderr is not None
    assert np.abs((simple.values - banzhaf.values) / np.hypot(simple.stderr, banzhaf.stderr)).max() < 4.5
    for found in (simple, shrunk):
        assert np.abs(found.values - banzhaf.values).max() < 0.1 * np.abs(banzhaf.values).max()


def test_intercepts_per_density_take_the_trend_with_size_out_of_the_noise(toy: Toy) -> None:
    settings = {"post_ols": False, "models": 800, "debias": False}
    errors = [toy.estimate("ame", p_dummies=p, **settings).stderr for p in (True, False)]
    assert errors[0].mean() < errors[1].mean()


def test_least_squares_on_the_support_keeps_the_zeros_of_the_lasso(toy: Toy) -> None:
    shrunk, plain = (toy.estimate("ame", post_ols=post, models=200, debias=False) for post in (False, True))
    assert ((shrunk.values == 0) == (plain.values == 0)).all() and (shrunk.values == 0).any()
    assert np.abs(plain.values).sum() > np.abs(shrunk.values).sum()
    assert plain.report["lasso_violation"] < 1e-8


def test_the_lasso_is_in_a_table_beside_debiased_values(toy: Toy) -> None:
    lasso, corrected = (toy.estimate("ame", models=200, post_ols=False, debias=debias) for debias in (False, True))
    table = corrected.tables["lasso"]
    assert np.allclose(table["influence"], lasso.tables["joint"]["influence"], atol=1e-12)
    assert (table["tests_that_keep_it"] == (lasso.values != 0).sum(axis=1)).all()
    assert (lasso.values == 0).any() and (corrected.values != 0).all() and (corrected.stderr > 0).all()
    assert "shrinkage" in lasso.report["stderr_holds"] and "shrinkage" not in corrected.report["stderr_holds"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("probabilities", [0.0, 0.5]), ("probabilities", []), ("probabilities", [0.5, 0.5]), ("rule", "ols"),
     ("folds", 1), ("path", 1), ("path_ratio", 1.0)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting):
        estimator_named("ame", {setting: value})
