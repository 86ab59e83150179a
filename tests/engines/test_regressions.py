"""Least squares and LASSO against definitions, sklearn and the conditions of optimality."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import Lasso

from influx.engines import regressions
from influx.engines.contrasts import difference
from influx.engines.regressed import rank_correlations
from influx.engines.regressions import Sample
from influx.errors import ConfigError
from tests.engines.table_games import C, N, marginals, number_of, powerset, summed, table

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def game() -> Array:
    return table()


def sample(x: Array, y: Array, strata: NDArray[np.int64] | None = None) -> Sample:
    """Blocks of seven models, out of order."""

    def read(rows: slice) -> Iterator[tuple[NDArray[np.int64], Array]]:
        for start in reversed(range(rows.start, rows.stop, 7)):
            part = np.arange(start, min(start + 7, rows.stop))
            yield part, y[part]

    groups = np.zeros(len(x), np.int64) if strata is None else strata
    return Sample(features=lambda rows: x[rows].astype(float), read=read, strata=groups)


def sums_of(found: Sample) -> regressions.Products:
    return regressions.products(found, regressions.centres(found, found.whole), found.whole)


@pytest.fixture(scope="module")
def planted() -> tuple[Array, Array]:
    """300 models, 40 instances of which few matter, 5 outcomes."""
    rng = np.random.default_rng(0)
    x = (rng.random((300, 40)) < 0.5).astype(float)
    effects = rng.normal(size=(40, 5)) * (rng.random((40, 5)) < 0.2)
    return x, 3 + x @ effects + 0.3 * rng.normal(size=(300, 5))


def test_over_all_subsets_every_rule_is_the_banzhaf_value(game: Array) -> None:
    masks = powerset()
    exact = marginals(game, np.ones_like)
    moebius = -game.copy()
    for i in range(N):
        inside = masks[:, i] == 1
        moebius[inside] -= moebius[np.flatnonzero(inside) - (1 << i)]
    sizes = masks.sum(axis=1).astype(int)
    by_moebius = np.stack([(moebius / 2.0 ** (sizes[:, None] - 1))[masks[:, i] == 1].sum(axis=0) for i in range(N)])
    sums = summed(masks, game)
    slopes, _ = regressions.least_squares(sample(masks, game))
    x = np.where(masks > 0, 2.0, -2.0) / 2  # AME features at p = 1/2: c = 4
    products = sums_of(sample(x, game))
    unpenalised = regressions.lasso(products.xx / products.count, products.xy / products.count, np.zeros(C))
    for found in (difference([(sums, sums)]).values, -slopes, -2 * unpenalised, by_moebius):
        assert np.allclose(found, exact, atol=1e-8)


@pytest.mark.parametrize("p", [0.2, 0.6])
def test_features_of_the_average_marginal_effect_need_the_factor_root_c(game: Array, p: float) -> None:
    ps = np.array([p, 0.5])
    unit = np.sqrt(np.mean(1 / (ps * (1 - ps))))
    masks, sizes = powerset(), powerset().sum(axis=1)
    chance = np.concatenate([q**sizes * (1 - q) ** (N - sizes) / 2 for q in ps])
    x = np.concatenate([np.where(masks > 0, 1 / q, -1 / (1 - q)) / unit for q in ps])
    y = np.concatenate([game, game])
    gram = (x * chance[:, None]).T @ x
    cross = (x * chance[:, None]).T @ y  # the features have mean 0 at each p
    assert np.allclose(gram, np.eye(N), atol=1e-12)
    found = -unit * regressions.lasso(gram, cross, np.zeros(C))
    exact = np.mean([marginals(game, lambda s, q=q: q**s * (1 - q) ** (N - 1 - s)) for q in ps], axis=0)
    assert np.allclose(found, exact, atol=1e-9)


def test_least_squares_has_the_slopes_and_errors_of_the_full_sandwich(planted: tuple[Array, Array]) -> None:
    x, y = planted
    slopes, stderr = regressions.least_squares(sample(x, y))
    full = np.column_stack([np.ones(len(x)), x])
    bread = np.linalg.inv(full.T @ full)
    leverage = np.einsum("ki,ij,kj->k", full, bread, full)
    for j in range(y.shape[1]):
        expected = np.linalg.lstsq(full, y[:, j], rcond=None)[0]
        residual = (y[:, j] - full @ expected) / (1 - leverage)
        meat = full.T @ (full * residual[:, None] ** 2)
        assert np.allclose(slopes[:, j], expected[1:], atol=1e-11)
        assert np.allclose(stderr[:, j], np.sqrt(np.diag(bread @ meat @ bread))[1:], rtol=1e-9)


def test_least_squares_refuses_too_few_models() -> None:
    with pytest.raises(ConfigError, match=r"raise estimator\.models"):
        regressions.least_squares(sample(np.eye(5), np.ones((5, 1))))


@pytest.mark.parametrize("ratio", [0.5, 0.05, 0.002])
def test_lasso_is_that_of_sklearn(planted: tuple[Array, Array], ratio: float) -> None:
    x, y = planted
    products = sums_of(sample(x, y))
    gram, cross = products.xx / products.count, products.xy / products.count
    penalty = ratio * np.abs(cross).max(axis=0)
    found = regressions.lasso(gram, cross, penalty)
    for j in range(y.shape[1]):
        expected = Lasso(alpha=penalty[j], tol=1e-14, max_iter=100_000).fit(x, y[:, j]).coef_
        assert np.abs(found[:, j] - expected).max() < 1e-8
    assert regressions.violation(gram, cross, penalty, found) <= regressions.TOLERANCE


def test_lasso_meets_its_conditions_with_fewer_models_than_instances() -> None:
    rng = np.random.default_rng(1)
    x, y = (rng.random((30, 50)) < 0.5).astype(float), rng.normal(size=(30, 4))
    products = sums_of(sample(x, y))
    gram, cross = products.xx / products.count, products.xy / products.count
    penalty = 0.1 * np.abs(cross).max(axis=0)
    found = regressions.lasso(gram, cross, penalty)
    slope = gram @ found - cross
    kept = found != 0
    assert np.allclose(slope[kept], -(penalty * np.sign(found))[kept], atol=1e-8)
    assert (np.abs(slope) <= penalty + 1e-8).all() and 0 < kept.sum() < kept.size


def test_stopping_short_of_the_optimum_is_told(planted: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    products = sums_of(sample(*planted))
    gram, cross = products.xx / products.count, products.xy / products.count
    penalty = 0.01 * np.abs(cross).max(axis=0)
    assert not regressions.doubt(regressions.violation(gram, cross, penalty, regressions.lasso(gram, cross, penalty)))
    monkeypatch.setattr(regressions, "STEPS", 3)
    short = regressions.lasso(gram, cross, penalty)
    assert "short of its optimum" in regressions.doubt(regressions.violation(gram, cross, penalty, short))


def test_the_largest_penalty_leaves_nothing(planted: tuple[Array, Array]) -> None:
    products = sums_of(sample(*planted))
    tried = regressions.penalties(products.xy / products.count, 3, 0.1)
    first, second = list(regressions.path(products, tried))[:2]
    assert not first.any() and second.any()


def test_least_squares_on_a_support(planted: tuple[Array, Array]) -> None:
    x, y = planted
    products = sums_of(sample(x, y))
    support = np.random.default_rng(2).random((40, 5)) < 0.3
    support[:, 4] = False
    found = regressions.on_support(products.xx, products.xy, support)
    assert not found[~support].any()
    for j in range(4):
        centred = x[:, support[:, j]] - x[:, support[:, j]].mean(axis=0)
        expected = np.linalg.lstsq(centred, y[:, j] - y[:, j].mean(), rcond=None)[0]
        assert np.allclose(found[support[:, j], j], expected, atol=1e-10)


def test_strata_have_intercepts_of_their_own(planted: tuple[Array, Array]) -> None:
    x, y = planted
    strata = np.arange(300) % 3
    moved = y + np.array([0.0, 50.0, -20.0])[strata][:, None]
    apart, plain = (regressions.least_squares(sample(x, values, strata))[0] for values in (moved, y))
    assert np.allclose(apart, plain, atol=1e-10)


def test_cross_validation_finds_the_planted_support(planted: tuple[Array, Array]) -> None:
    x, y = planted
    found = sample(x, y)
    centre = regressions.centres(found, found.whole)
    products = regressions.products(found, centre, found.whole)
    tried = regressions.penalties(products.xy / products.count, 20, 1e-3)
    penalty = regressions.cross_validated(found, centre, products, regressions.ranges(300, 10), tried)
    kept = regressions.lasso(products.xx / products.count, products.xy / products.count, penalty) != 0
    rng = np.random.default_rng(0)
    rng.random((300, 40))
    effects = rng.normal(size=(40, 5)) * (rng.random((40, 5)) < 0.2)
    assert kept[np.abs(effects) > 0.2].all() and kept.sum() < kept.size / 2


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.choice([-1.0, 1.0], (200, 1)), rng.normal(size=(200, 1))
    found = sample(x, y)
    centre = regressions.Centres(np.zeros((1, 1)), np.zeros((1, 1)))
    products = regressions.products(found, centre, found.whole)

    def fit(part: regressions.Products) -> Array:
        return part.xy / part.count

    error = regressions.jackknife(found, centre, products, fit(products), fit, parts=200)
    assert error[0, 0] == pytest.approx((x * y).std(ddof=1) / np.sqrt(200), rel=1e-10)


def test_intervals_of_least_squares_hold_the_banzhaf_value(game: Array) -> None:
    exact, hits = marginals(game, np.ones_like), []
    for seed in range(200):
        masks = (np.random.default_rng(seed).random((80, N)) < 0.5).astype(np.uint8)
        slopes, stderr = regressions.least_squares(sample(masks, game[number_of(masks)]))
        hits.append(np.abs(-slopes - exact) < 1.96 * stderr)
    assert 0.92 <= np.mean(hits) <= 0.98


def test_the_step_is_found_once_per_path(planted: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    products, calls, whole = sums_of(sample(*planted)), [], np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda gram: (calls.append(1), whole(gram))[1])
    assert len(list(regressions.path(products, regressions.penalties(products.xy / products.count, 9, 0.1)))) == 9
    assert len(calls) == 1


def test_rank_correlations_of_a_constant_prediction_are_zero_and_of_a_constant_outcome_missing() -> None:
    rng = np.random.default_rng(4)
    left, right = rng.normal(size=(2, 20, 3))
    left[:, 1], right[:, 2] = 1.0, 1.0
    found = rank_correlations(left, right)
    assert found[0] == pytest.approx(spearmanr(left[:, 0], right[:, 0]).statistic, abs=1e-12)
    assert found[1] == 0 and np.isnan(found[2])
