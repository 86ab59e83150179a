"""Subsets with and without an instance: sizes, offset, memorization of a nearest neighbour."""

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


def design(toy: Toy, **settings: Any) -> tuple[Any, Any]:
    estimator: Any = estimator_named("downsampling", settings)
    return estimator.design(toy.run(estimator, "downsampling"))


def test_subsets_have_their_sizes(toy: Toy) -> None:
    assert set(design(toy)[0].weights.sum(axis=1)) == {6}
    paired, strata = design(toy, sampling="paired_sizes", seeds=2)
    assert paired.weights.sum(axis=1).tolist() == [6, 5] * 250 and strata.tolist() == [0, 1] * 250
    assert {tuple(pair) for pair in np.stack([paired.init, strata], 1).tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len(set(design(toy, sampling="bernoulli")[0].weights.sum(axis=1))) > 3


def test_influences_by_subsets_of_one_size_sum_to_about_zero(toy: Toy) -> None:
    sums = {s: np.abs(toy.estimate("downsampling", models=2000, sampling=s).values.sum(axis=0)).mean()
            for s in ("fixed_size", "paired_sizes", "bernoulli")}  # fmt: skip
    assert sums["fixed_size"] < 0.3 * min(sums["paired_sizes"], sums["bernoulli"])


def test_counts_are_reported(toy: Toy) -> None:
    masks, report = design(toy)[0].weights, toy.estimate("downsampling").report
    assert report["fewest_models_with"] == masks.sum(axis=0).min()
    assert report["fewest_models_without"] == 500 - masks.sum(axis=0).max()


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01, 0.99])
def test_subsets_without_anything_in_or_out_are_refused(toy: Toy, fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"estimator\.fraction"):
        toy.estimate("downsampling", fraction=fraction)


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampling must be .*fixed_size"):
        estimator_named("downsampling", {"sampling": "poisson"})
