"""What leave-one-out does when only some instances are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.errors import ConfigError
from influx.models.mlp import MLP
from influx.oracles.retraining import leave_one_out
from influx.oracles.toys import Toy, table, train


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return train(tmp_path, table(), MLP(width=4))


def test_only_the_named_instances_are_removed(toy: Toy) -> None:
    wanted = [2, 5]
    found = toy.estimate("loo", indices=[int(toy.train.ids[row]) for row in wanted], ceiling_budget=0)
    assert np.flatnonzero(found.computed).tolist() == wanted
    assert np.allclose(found.values[wanted], leave_one_out(toy)[0][wanted], rtol=1e-9, atol=1e-12)


def test_a_budget_removes_that_many_whatever_the_rest(toy: Toy) -> None:
    few, all_of_them = toy.estimate("loo", budget=4), toy.estimate("loo")
    assert few.computed.sum() == 4 and all_of_them.computed.all()
    assert np.allclose(few.values[few.computed], all_of_them.values[few.computed], rtol=1e-9, atol=1e-12)


def test_an_unknown_id_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"truth\.indices must be ids of training instances"):
        toy.estimate("loo", indices=[0])


def test_a_second_seed_measures_the_noise_when_one_was_asked_for(toy: Toy) -> None:
    found = toy.estimate("loo", ceiling_budget=3)
    own, again = found.replicates
    assert np.array_equal(own, found.values) and (~np.isnan(again).all(axis=1)).sum() == 3
    second = toy.estimate("loo", seeds=2).replicates[1]
    removed = ~np.isnan(again).all(axis=1)
    assert np.allclose(again[removed], second[removed], rtol=1e-9, atol=1e-12)
