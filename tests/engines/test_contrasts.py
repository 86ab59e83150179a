"""Differences of means against definitions, on games whose every subset is in a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from influx.engines import risk_sums
from influx.engines.contrasts import Difference, difference
from influx.engines.risk_sums import Sums
from tests.engines.table_games import C, N, marginals, number_of, powerset, summed, table

Array = NDArray[np.float64]
REPETITIONS, MODELS = 200, 80


@pytest.fixture(scope="module")
def game() -> Array:
    return table()


def gap(masks: NDArray[np.uint8], risks: Array) -> Difference:
    sums = summed(masks, risks)
    return difference([(sums, sums)])


def welch(inside: Array, outside: Array) -> float:
    return float(np.sqrt(inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside)))


def test_each_cell_is_a_difference_of_means_with_the_standard_error_of_welch() -> None:
    rng = np.random.default_rng(1)
    masks, risks = (rng.random((60, 5)) < 0.4).astype(np.uint8), 1e4 + rng.normal(size=(60, 4))
    found = gap(masks, risks)
    for i, j in np.ndindex(5, 4):
        inside, outside = risks[masks[:, i] == 1, j], risks[masks[:, i] == 0, j]
        assert found.values[i, j] == pytest.approx(outside.mean() - inside.mean(), abs=1e-11)
        assert found.stderr[i, j] == pytest.approx(welch(inside, outside), rel=1e-11)


def test_on_themselves_instances_have_a_column_each() -> None:
    rng = np.random.default_rng(2)
    masks, risks = rng.random((50, 5)) < 0.5, rng.normal(size=(50, 5))
    own = Sums(5, 1, own=True)
    own.add(masks[:20], risks[:20])
    own.add(masks[20:], risks[20:])
    whole, found = gap(masks.astype(np.uint8), risks), difference([(own, own)])
    assert np.allclose(found.values.ravel(), np.diag(whole.values), atol=1e-14)
    assert np.allclose(found.stderr.ravel(), np.diag(whole.stderr), atol=1e-14)


def test_rows_at_once_do_not_matter(monkeypatch: pytest.MonkeyPatch, game: Array) -> None:
    expected = gap(powerset(), game)
    monkeypatch.setattr(risk_sums, "ROWS_CHUNK", 2)
    found = gap(powerset(), game)
    assert np.allclose(found.values, expected.values, atol=1e-13)
    assert np.allclose(found.stderr, expected.stderr, atol=1e-13)


def test_over_all_subsets_it_is_the_banzhaf_value(game: Array) -> None:
    assert np.allclose(gap(powerset(), game).values, marginals(game, np.ones_like), atol=1e-12)


@pytest.mark.parametrize("size", range(1, N))
def test_over_all_subsets_of_one_size_influences_sum_to_zero(game: Array, size: int) -> None:
    masks = powerset()[powerset().sum(axis=1) == size]
    values = gap(masks, game[number_of(masks)]).values
    assert np.allclose(values.sum(axis=0), 0, atol=1e-12) and np.abs(values).max() > 0.01


def test_leaving_one_out_of_all_is_relative_to_the_mean_of_the_others(game: Array) -> None:
    masks = powerset()[powerset().sum(axis=1) == N - 1]
    left_out = np.stack([game[number_of((1 - unit)[None, :])][0] - game[-1] for unit in np.eye(N, dtype=np.uint8)])
    others = (left_out.sum(axis=0) - left_out) / (N - 1)
    assert np.allclose(gap(masks, game[number_of(masks)]).values, left_out - others, atol=1e-12)


@pytest.mark.parametrize("size", range(1, N + 1))
def test_sizes_s_and_one_less_are_the_mean_effect_of_joining(game: Array, size: int) -> None:
    sizes = powerset().sum(axis=1)
    inside, outside = (summed(powerset()[sizes == s], game[sizes == s]) for s in (size, size - 1))
    expected = marginals(game, lambda others: (others == size - 1).astype(float))
    assert np.allclose(difference([(inside, outside)]).values, expected, atol=1e-12)


def test_independent_instances_of_an_additive_game_have_their_own_effect() -> None:
    effects = np.random.default_rng(3).normal(size=(N, C))
    masks = np.repeat(
        powerset(), 3 ** powerset().sum(axis=1).astype(int), axis=0
    )  # as often as probability 3/4 has them
    sums = summed(masks, -(masks @ effects), block=5000)
    assert np.allclose(difference([(sums, sums)]).values, effects, atol=1e-11)


def test_of_an_additive_game_one_size_gives_effects_less_the_mean_of_the_others() -> None:
    effects = np.random.default_rng(3).normal(size=(N, C))
    masks = powerset()[powerset().sum(axis=1) == 4]
    others = (effects.sum(axis=0) - effects) / (N - 1)
    assert np.allclose(gap(masks, -(masks @ effects)).values, effects - others, atol=1e-12)


def test_weights_need_one_model_on_a_side() -> None:
    masks = np.array([[1, 0], [0, 1], [0, 1]], np.uint8)
    sums = summed(masks, np.array([[1.0], [4.0], [6.0]]))
    found = difference([(sums, sums)], [np.array([[1.0], [1.0]])])
    assert found.values.ravel().tolist() == [4.0, -4.0]
    assert np.allclose(found.stderr, np.sqrt(2.0 * (1 + 1 / 2)))  # variance 2 of the side with two models


def test_strata_average(game: Array) -> None:
    masks = powerset()
    parts = [summed(masks[masks.sum(axis=1) == s], game[masks.sum(axis=1) == s]) for s in (3, 4)]
    alone = [difference([(part, part)]) for part in parts]
    both = difference([(part, part) for part in parts])
    assert np.allclose(both.values, (alone[0].values + alone[1].values) / 2, atol=1e-14)
    assert np.allclose(both.stderr, np.hypot(alone[0].stderr, alone[1].stderr) / 2, atol=1e-14)


def by_seed(masks: NDArray[np.uint8], risks: Array, seed: NDArray[np.int64], clusters: int) -> Sums:
    sums = Sums(masks.shape[1], risks.shape[1], clusters=clusters)
    for start in range(0, len(masks), 11):
        part = slice(start, start + 11)
        sums.add(masks[part] > 0, risks[part], seed[part])
    return sums


def test_seeds_that_train_the_same_subsets_have_the_spread_of_their_differences() -> None:
    rng, seeds = np.random.default_rng(4), 5
    masks, seed = np.repeat((rng.random((30, N)) < 0.5).astype(np.uint8), seeds, axis=0), np.arange(30 * seeds) % seeds
    effects, levels = rng.normal(size=(seeds, N, C)), rng.normal(size=(seeds, C))
    risks = levels[seed] - np.einsum("kn,knc->kc", masks, effects[seed]) + rng.normal(size=(len(masks), C))
    sums = by_seed(masks, risks, seed, seeds)
    found = difference([(sums, sums)])
    apart = np.stack([gap(masks[seed == s], risks[seed == s]).values for s in range(seeds)])
    assert np.allclose(found.values, apart.mean(axis=0), atol=1e-12)
    assert np.allclose(found.stderr, apart.std(axis=0, ddof=1) / np.sqrt(seeds), atol=1e-12)
    level = np.stack([masks[seed == 0][:, i] @ np.ones(30) for i in range(N)])  # with, the same under each seed
    for i, c in np.ndindex(N, C):
        sides = [[risks[(seed == s) & (masks[:, i] == here), c] for s in range(seeds)] for here in (1, 0)]
        spread = [sum(((r - r.mean()) ** 2).sum() for r in side) / sum(len(r) - 1 for r in side) for side in sides]
        error = np.sqrt((spread[0] / level[i] + spread[1] / (30 - level[i])) / seeds)
        assert found.design[i, c] == pytest.approx(error, rel=1e-10)
    assert found.stderr.mean() > 1.5 * found.design.mean()
    raised = by_seed(masks, risks + 100 * levels[seed], seed, seeds)
    again = difference([(raised, raised)])  # the level of a seed is no noise
    assert np.allclose(again.values, found.values, atol=1e-11) and np.allclose(again.design, found.design, atol=1e-9)


def test_what_clusters_of_seeds_add_to_errors_sums_to_zero(game: Array) -> None:
    seed = np.arange(len(powerset())) % 8
    sums, rows = by_seed(powerset(), game, seed, 3), slice(1, 4)  # seeds 0, 3 and 6 are together
    pulls = [sums.pulls(rows, number) for number in range(3)]
    assert all(np.abs(sum(side)).max() < 1e-12 < np.abs(side[0]).max() for side in zip(*pulls, strict=True))
    mean, inside = game.mean(axis=0), powerset()[:, 1] == 1
    together = np.isin(seed, [0, 3, 6])
    assert np.allclose(sums.whole_pull(0), (game[together] - mean).sum(axis=0) / len(game), atol=1e-13)
    expected = (game[together & inside] - game[inside].mean(axis=0)).sum(axis=0) / inside.sum()
    assert np.allclose(pulls[0][0][0], expected, atol=1e-13)


def coverage(draw: Callable[[np.random.Generator], NDArray[np.uint8]], game: Array, exact: Array) -> float:
    """Share of 95% intervals that hold the exact value, over repeated draws of all models."""
    hits = []
    for seed in range(REPETITIONS):
        masks = draw(np.random.default_rng(seed))
        found = gap(masks, game[number_of(masks)])
        hits.append(np.abs(found.values - exact) < 1.96 * found.stderr)
    return float(np.mean(hits))


def test_intervals_of_independent_instances_hold_the_banzhaf_value(game: Array) -> None:
    share = coverage(lambda rng: (rng.random((MODELS, N)) < 0.5).astype(np.uint8), game, marginals(game, np.ones_like))
    assert 0.92 <= share <= 0.98


def test_intervals_of_one_size_hold_the_exhaustive_value(game: Array) -> None:
    masks = powerset()[powerset().sum(axis=1) == 4]
    exact = gap(masks, game[number_of(masks)]).values
    share = coverage(lambda rng: masks[rng.integers(len(masks), size=MODELS)], game, exact)
    assert 0.92 <= share <= 0.98


def test_intervals_of_bootstrap_samples_hold_the_value_of_many(game: Array) -> None:
    def draw(rng: np.random.Generator, models: int = MODELS) -> NDArray[np.uint8]:
        picks = rng.integers(N, size=(models, N))
        return (picks[:, :, None] == np.arange(N)).any(axis=1).astype(np.uint8)

    many = draw(np.random.default_rng(10**6), 400_000)
    share = coverage(draw, game, gap_of_many(many, game))
    assert 0.92 <= share <= 0.98


def gap_of_many(masks: NDArray[np.uint8], game: Array) -> Array:
    sums = summed(masks, game[number_of(masks)], block=100_000)
    return difference([(sums, sums)]).values


def test_intervals_over_several_densities_hold_the_average_marginal_effect(game: Array) -> None:
    densities = np.array([0.3, 0.5, 0.7])
    exact = np.mean([marginals(game, lambda s, p=p: p**s * (1 - p) ** (N - 1 - s)) for p in densities], axis=0)
    hits = []
    for seed in range(REPETITIONS):
        rng = np.random.default_rng(seed)
        draws = [(rng.random((60, N)) < p).astype(np.uint8) for p in densities]
        parts = [summed(masks, game[number_of(masks)]) for masks in draws]
        found = difference([(part, part) for part in parts])
        hits.append(np.abs(found.values - exact) < 1.96 * found.stderr)
    assert 0.92 <= np.mean(hits) <= 0.98
