"""Identities of influence sketching."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from influx.errors import ConfigError, NumericalError
from influx.estimators.linear.influence_sketching import directions
from influx.learners.linear.ridge import Ridge
from influx.oracles.linear import PROBLEMS
from influx.oracles.toys import Toy, bundled, estimator_named, learned
from influx.problem import Data, Split


def wide(n: int = 120, inputs: int = 60) -> Data:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n + 5, inputs)) * np.linspace(0.3, 2, inputs) * rng.gamma(2.0, size=(n + 5, 1))
    whole = Split(x=x.astype(np.float32), y=(x[:, 0] + rng.normal(size=n + 5)).astype(np.float32), ids=np.arange(n + 5))
    return Data(
        name="wide", task="regression", kind="tabular", train=whole.take(slice(0, n)), test=whole.take(slice(n, None))
    )


def sketched(toy: Toy, **settings: Any) -> Any:
    return toy.estimate("influence_sketching", **settings).tables["sketched_cooks"]


@pytest.mark.parametrize("sketch", ["gaussian", "sparse", "orthogonal"])
def test_directions_keep_inner_products_on_average(sketch: Any) -> None:
    rng = np.random.default_rng(0)
    mean = np.mean([omega @ omega.T for omega in (directions(6, 4, sketch, rng) for _ in range(4000))], axis=0)
    assert np.abs(mean - np.eye(6)).max() < 0.08


def test_all_dimensions_at_right_angles_give_the_exact_leverage(tmp_path: Path) -> None:
    for kind in PROBLEMS:
        toy, _ = PROBLEMS[kind](tmp_path)
        exact = toy.estimate("cooks_distance", variant="one_step")
        found = toy.estimate("influence_sketching", lam=None)
        leverage = exact.tables["cooks_distance"]["leverage"]
        assert np.allclose(found.tables["sketched_cooks"]["leverage"], leverage, rtol=1e-9)
        assert np.allclose(found.values, exact.values, rtol=1e-7, atol=1e-12)


def test_leverages_sum_to_the_trace_of_the_hat_matrix(tmp_path: Path) -> None:
    toy = learned(tmp_path, wide(), Ridge())
    assert sketched(toy, k=20, lam=0.0)["leverage"].sum() == pytest.approx(20)
    assert sketched(toy, k=20, lam=0.1)["leverage"].sum() < 19


def test_more_dimensions_rank_more_like_the_exact_distance(tmp_path: Path) -> None:
    toy = learned(tmp_path, wide(), Ridge())
    exact = sketched(toy, lam=None)["score"]
    few, many = (spearmanr(sketched(toy, k=k, sketch="gaussian", n_sketches=3)["score"], exact)[0] for k in (5, 40))
    assert 0.5 < few < many and many > 0.9


def test_averages_are_over_independent_sketches_that_begin_with_the_same(tmp_path: Path) -> None:
    toy = learned(tmp_path, wide(), Ridge())
    one, three = sketched(toy, k=5), sketched(toy, k=5, n_sketches=3)
    assert np.isnan(one["sd"]).all() and (three["sd"] > 0).all()
    assert not np.allclose(one["score"], three["score"], rtol=1e-3)
    assert toy.estimate("influence_sketching", k=5).stderr is None


def test_a_singular_sketch_names_what_to_raise(tmp_path: Path) -> None:
    train = bundled("diabetes", 40, 4)
    x = train.train.x.copy()
    x[:, 1] = x[:, 0]
    data = Data(
        name="twice",
        task="regression",
        kind="tabular",
        train=Split(x=x, y=train.train.y, ids=train.train.ids),
        test=train.test,
    )
    toy = learned(tmp_path, data, Ridge())
    with pytest.raises(NumericalError, match=r"set model\.weight_decay above 0, or for sketches estimator\.lam"):
        sketched(toy, lam=0.0)
    assert np.isfinite(sketched(toy)["score"]).all()


@pytest.mark.parametrize("settings", [{"k": 0}, {"sketch": "hash"}, {"lam": -1.0}, {"n_sketches": 0}])
def test_settings_out_of_range_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"estimator.*\.{next(iter(settings))} must be"):
        estimator_named("influence_sketching", settings)
