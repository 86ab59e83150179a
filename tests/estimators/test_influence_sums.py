"""Survey slip E12: the regulariser belongs to the curvature, and then all influence adds up to what it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.models.linear import Linear
from influx.oracles import plain
from influx.oracles.dense import dense_matrix, parameters
from influx.oracles.toys import Toy, bundled, converged

DECAY = 0.1


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Softmax regression at its optimum."""
    below: Path = tmp_path_factory.mktemp("sums")
    return converged(below, bundled("iris", 30, 8), Linear(), DECAY)


@pytest.mark.parametrize("estimator", ["if_exact", "if_cg", "influence_functions"])
def test_e12_all_influence_adds_up_to_the_regularisers(toy: Toy, estimator: str) -> None:
    """Σ_i S[i, j] = -λ g_jᵀ H_r⁻¹ θ: 0 only without regulariser, and another number if H_r left it out."""
    theta, tests = parameters(toy), plain.gradients(toy, toy.module(), toy.test)
    h = dense_matrix(toy, "hessian")
    expected = -DECAY * tests @ np.linalg.solve(h, theta)
    found = toy.estimate(estimator, damping=0.0).values.sum(axis=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * np.abs(expected).max())
    left_out = -DECAY * tests @ np.linalg.solve(h - DECAY * np.eye(len(h)) + 1e-3 * np.eye(len(h)), theta)
    assert np.abs(left_out - expected).max() > 0.1 * np.abs(expected).max() and np.abs(expected).max() > 1e-3
