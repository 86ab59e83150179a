"""Regression on features that come in parts: against NumPy, both ways, and refusal of singular matrices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from influx.engines import leverage as engine
from influx.engines.leverage import leverage
from influx.errors import NumericalError


def features(n: int, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, dim, dtype=dtype, generator=torch.Generator().manual_seed(n * dim))


def parts(whole: Tensor, size: int = 7) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(whole), size):
        yield slice(start, min(start + size, len(whole))), whole[start : start + size]


@pytest.mark.parametrize(("n", "dim"), [(30, 6), (6, 30), (12, 12)])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_regression_of_all_features(
    n: int, dim: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SOLVED_CHUNK", 5)
    train, test = features(n, dim), features(4, dim)
    weights = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) if weighted else None
    solved = leverage(lambda: parts(train), n, test, 0.3, 0.0, weights)
    scaled = train if weights is None else train * weights[:, None]
    inverse = np.linalg.inv((scaled.T @ train).numpy() + 0.3 * np.eye(dim))
    expected = train.numpy() @ inverse @ test.numpy().T
    found, own = np.full((n, 4), np.nan), np.full(n, np.nan)
    for rows, values in solved.values():
        found[rows] = values.numpy()
    for rows, values in solved.own():
        own[rows] = values.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-11)
    np.testing.assert_allclose(own, np.diag(train.numpy() @ inverse @ train.numpy().T), atol=1e-11)


def test_damping_is_a_part_of_the_mean_eigenvalue() -> None:
    train = features(30, 6)
    mean = float(torch.linalg.eigvalsh(train.T @ train).mean())
    solved = leverage(lambda: parts(train), 30, features(2, 6), None, 0.1)
    assert solved.damping == pytest.approx(0.1 * mean) and solved.report["mean_eigenvalue"] == pytest.approx(mean)
    short = leverage(lambda: parts(train.T), 6, features(2, 30), None, 0.1)  # 6 of 30 eigenvalues are not zero
    assert short.damping == pytest.approx(0.1 * mean)
    wide = torch.cat([train, train], 1)  # 12 numbers made of 6: 6 eigenvalues are not zero
    mean = float(torch.linalg.eigvalsh(wide.T @ wide).sum()) / 6
    few = leverage(lambda: parts(wide), 30, features(2, 12), None, 0.1, parameters=6)
    assert few.damping == pytest.approx(0.1 * mean)
    over_all = leverage(lambda: parts(train.T), 6, features(2, 30), None, 0.1, mean_over=30)
    assert over_all.damping == pytest.approx(short.damping / 5)


def test_single_precision_features_are_solved_in_double() -> None:
    train, test = features(300, 20, torch.float32), features(3, 20, torch.float32)
    solved = leverage(lambda: parts(train, 64), 300, test, 1e-3, 0.0)
    exact = train.double().numpy()
    expected = exact @ np.linalg.solve(exact.T @ exact + 1e-3 * np.eye(20), test.double().numpy().T)
    np.testing.assert_allclose(np.concatenate([v.numpy() for _, v in solved.values()]), expected, atol=1e-12)


@pytest.mark.parametrize("n", [20, 4])
def test_a_singular_matrix_is_refused(n: int) -> None:
    twice = features(1, 8).expand(n, 8)
    with pytest.raises(NumericalError, match=r"singular with damping .*estimator\.damping"):
        leverage(lambda: parts(twice), n, features(2, 8), 0.0, 0.1)
    with pytest.raises(NumericalError, match=r"of 5 parameters is singular"):
        leverage(lambda: parts(twice), n, features(2, 8), 0.0, 0.1, parameters=5)


@pytest.mark.parametrize("n", [20, 4])
def test_gradients_that_are_all_zero_give_zeros(n: int) -> None:
    train = torch.zeros(n, 8, dtype=torch.float64)
    solved = leverage(lambda: parts(train), n, features(2, 8), None, 0.1)
    assert all(not values.any() for _, values in [*solved.values(), *solved.own()])
