"""Unit representer values: their scale does not matter, and for two classes both norms are signs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.engines.heads import Objective
from influx.engines.representers import Surrogate
from influx.models.mlp import MLP
from influx.oracles import plain, toys
from influx.oracles.toys import Toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=4))


@pytest.mark.parametrize("norm", ["l2", "sign"])
def test_the_scale_of_representer_values_does_not_matter(norm: str, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    before = toy.estimate("renorm_representer", norm=norm).values
    right = Surrogate.alpha
    factors = np.random.default_rng(0).uniform(0.01, 100, len(toy.train))

    def scaled(self: Surrogate, penalty: float) -> Any:
        return right(self, penalty) * self.theta.new_tensor(factors)[:, None]

    monkeypatch.setattr(Surrogate, "alpha", scaled)
    after = toy.estimate("renorm_representer", norm=norm).values
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12 * np.abs(before).max())
    assert not np.allclose(toy.estimate("representer_point").values, before)


def test_values_are_representer_points_over_the_length_of_their_alpha(toy: Toy) -> None:
    point = toy.estimate("representer_point")
    alpha = point.tables["representer_values"][["alpha_a", "alpha_b", "alpha_c"]].to_numpy()
    expected = point.values / np.linalg.norm(alpha, axis=1)[:, None]
    np.testing.assert_allclose(toy.estimate("renorm_representer").values, expected, rtol=1e-10)


def test_both_norms_are_the_sign_for_two_classes(tmp_path: Path) -> None:
    data = toys.table(n_train=12)
    keep = [np.flatnonzero(s.y < 2) for s in (data.train, data.test)]
    data = replace(data, train=data.train.take(keep[0]), test=data.test.take(keep[1]), classes=("a", "b"))
    toy = toys.train(tmp_path, data, MLP(width=4))
    l2, sign = (toy.estimate("renorm_representer", norm=norm).values for norm in ("l2", "sign"))
    np.testing.assert_allclose(l2, sign, rtol=1e-10)
    f, g = (plain.with_ones(plain.features(toy.module(), toy.tensors(s)[0])) for s in (toy.train, toy.test))
    signs = np.where(toy.train.y[:, None] == toy.test.y, 1, -1)
    np.testing.assert_allclose(sign, signs * (f @ g.T) / np.sqrt(2), rtol=1e-10)


def test_both_norms_are_the_sign_for_one_output(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression"), MLP(width=4))
    l2, sign = (toy.estimate("renorm_representer", norm=norm).values for norm in ("l2", "sign"))
    np.testing.assert_allclose(l2, sign, rtol=1e-12)


def test_normalised_features_leave_cosines(toy: Toy) -> None:
    values = toy.estimate("renorm_representer", normalise_features=True).values
    assert np.abs(values).max() <= 1
    assert np.abs(toy.estimate("renorm_representer").values).max() > 1


@pytest.mark.fault(23, "similarity zero, counted")
def test_vanishing_representer_values_have_no_direction(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Objective.residual

    def vanishing(self: Objective, outputs: Any) -> Any:
        found = right(self, outputs)
        found[2] *= 1e-15
        return found

    monkeypatch.setattr(Objective, "residual", vanishing)
    found = toy.estimate("renorm_representer", allow_nonstationary=True)
    assert found.report["without_direction"] == 1 and (found.values[2] == 0).all() and (found.values[3] != 0).all()


def test_self_influence_is_kept_but_not_to_be_ranked(toy: Toy) -> None:
    found = toy.estimate("renorm_representer")
    assert found.self_influence is not None and "length of its features" in found.self_influence_note
