"""Semivalues and interactions of games written out as tables: axioms, identities and errors of sampling."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import comb

import numpy as np
import pytest

from influx.engines import coalitions as exact
from influx.engines.games import TableGame, distinct
from influx.engines.moments import Moments, Scattered
from influx.engines.pairs import (
    adjacent,
    adjacent_by_size,
    adjacent_coalitions,
    taylor,
    taylor_by_size,
    taylor_coalitions,
)
from influx.engines.permutations import (
    Truncation,
    drawn,
    prefixes_by_size,
    prefixes_of,
    sampled,
)
from influx.engines.stopping import Stop

NEVER = Stop(rule="budget", every=1000)
SEMIVALUES = {
    "shapley": exact.shapley_weights,
    "banzhaf": lambda n: np.full(n, 0.5 ** (n - 1)),
    "leave one out": lambda n: np.eye(n)[-1],
    "beta(4, 1)": lambda n: exact.beta_weights(n, 4, 1),
    "beta(1, 16)": lambda n: exact.beta_weights(n, 1, 16),
}


def of_positions(weights: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return exact.of_positions(np.log(weights))


@dataclass(frozen=True)
class FunctionGame:
    """A game given by a function of coalitions (K, players)."""

    players: int
    function: object

    def values(self, coalitions: np.ndarray) -> np.ndarray:
        return np.asarray(self.function(coalitions), float).reshape(len(coalitions), -1)


def random_game(players: int = 5, columns: int = 3, seed: int = 0) -> TableGame:
    return TableGame(np.random.default_rng(seed).normal(size=(2**players, columns)))


def moebius(table: np.ndarray) -> np.ndarray:
    m = table.copy()
    for player in range(len(table).bit_length() - 1):
        has = np.arange(len(m)) >> player & 1 == 1
        m[has] -= m[~has]
    return m


def supersets(players: int, *of: int) -> np.ndarray:
    """Which rows of a table hold all of some players."""
    return np.all([np.arange(2**players) >> player & 1 for player in of], axis=0)


def sizes(players: int) -> np.ndarray:
    return np.array([number.bit_count() for number in range(2**players)])


def all_orders(players: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(players))))


def gain(game: TableGame) -> np.ndarray:
    return game.table[-1] - game.table[0]


def glove(coalitions: np.ndarray) -> np.ndarray:
    return coalitions[:, 2] & coalitions[:, :2].any(axis=1)


# the Shapley value, by five ways


@pytest.mark.parametrize("players", [2, 4, 5])
def test_shapley_is_the_average_over_all_permutations(players: int) -> None:
    game = random_game(players)
    found = sampled(game, all_orders(players), np.ones(players), NEVER, block=3).values[:, :-1]
    assert np.allclose(found, exact.semivalues(game, exact.shapley_weights(players)), atol=1e-13)


def test_shapley_and_banzhaf_share_moebius_coefficients_among_players() -> None:
    n, game = 5, random_game()
    m, size = moebius(game.table), np.maximum(sizes(5), 1)[:, None]
    for weights, share in (
        (exact.shapley_weights(n), m / size),
        (SEMIVALUES["banzhaf"](n), m / 2.0 ** (size - 1)),
    ):
        expected = np.stack([share[supersets(n, i)].sum(axis=0) for i in range(n)])
        assert np.allclose(exact.semivalues(game, weights), expected, atol=1e-13)


def test_shapley_is_kernel_least_squares_over_all_coalitions() -> None:
    n, game = 5, random_game()
    inner = next(exact.powerset(n))[1:-1]
    weights = exact.kernel_weights(n, inner.sum(axis=1))
    found = exact.constrained_least_squares(inner, game.values(inner), weights, game.table[0], game.table[-1])
    assert np.allclose(found, exact.semivalues(game, exact.shapley_weights(n)), atol=1e-12)


@pytest.mark.parametrize("name", SEMIVALUES)
def test_a_semivalue_is_a_difference_of_means_at_each_size(name: str) -> None:
    n, game = 5, random_game()
    weights, size = SEMIVALUES[name](n), sizes(n)
    rows = []
    for i in range(n):
        has = supersets(n, i) == 1
        means = [
            game.table[has & (size == s + 1)].mean(axis=0) - game.table[~has & (size == s)].mean(axis=0)
            for s in range(n)
        ]
        rows.append(sum(comb(n - 1, s) * weights[s] * mean for s, mean in enumerate(means)))
    assert np.allclose(exact.semivalues(game, weights), rows, atol=1e-13)


@pytest.mark.parametrize("name", SEMIVALUES)
def test_weights_of_all_coalitions_sum_to_one_and_those_of_positions_average_one(name: str) -> None:
    for n in (2, 7, 300):
        weights = SEMIVALUES[name](n)
        assert np.isclose(sum(comb(n - 1, s) * float(w) for s, w in enumerate(weights)), 1)
        assert np.isclose(of_positions(weights).mean(), 1)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (4, 1), (1, 16), (0.5, 0.5)])
def test_factors_of_positions_are_numbers_for_thousands_of_players(alpha: float, beta: float) -> None:
    factors = exact.of_positions(exact.log_beta_weights(5000, alpha, beta))
    assert np.isfinite(factors).all() and np.isclose(factors.mean(), 1, rtol=1e-8)
    assert alpha != beta or alpha < 1 or np.allclose(factors, 1, rtol=1e-8)


def test_the_expected_number_of_different_coalitions() -> None:
    rng = np.random.default_rng(0)
    for players, count in ((4, 3), (6, 200), (9, 40)):
        for schemed, by_size in (
            (prefixes_of, prefixes_by_size),
            (adjacent_coalitions, adjacent_by_size),
            (taylor_coalitions, taylor_by_size),
        ):
            found = []
            for _ in range(50):
                orders = drawn(np.arange(players), count, False, rng)
                coalitions = np.concatenate([schemed(orders).reshape(-1, players), np.ones((1, players), bool)])
                found.append(len(distinct(coalitions)[0]))
            assert np.isclose(exact.expected_distinct(count, by_size(players)), np.mean(found), rtol=0.03)
    assert np.isclose(exact.expected_distinct(1000, prefixes_by_size(2000)), 2e6, rtol=0.01)


def test_beta_1_1_is_shapley_and_a_large_alpha_prefers_small_coalitions() -> None:
    assert np.allclose(exact.beta_weights(9, 1, 1), exact.shapley_weights(9), rtol=1e-12)
    mass = of_positions(exact.beta_weights(6, 16, 1)) / 6
    assert np.allclose(mass[:3], [0.762, 0.190, 0.040], atol=5e-4) and (np.diff(mass) < 0).all()
    assert np.allclose(mass[::-1], of_positions(exact.beta_weights(6, 1, 16)) / 6)


def test_beta_semivalues_mix_those_of_coin_flips() -> None:
    """w_s = E p^s (1 - p)^(n - 1 - s) under p ~ Beta(beta, alpha), by quadrature; p ~ U(0, 1) is the Shapley value."""
    n, (points, masses) = 6, np.polynomial.legendre.leggauss(20)
    p = (points + 1) / 2
    for weights, density in (
        (exact.beta_weights(n, 4, 1), 4 * (1 - p) ** 3),  # Beta(1, 4)
        (exact.beta_weights(n, 1, 1), np.ones_like(p)),
        (exact.shapley_weights(n), np.ones_like(p)),
    ):
        expected = [(masses / 2 * density * p**s * (1 - p) ** (n - 1 - s)).sum() for s in range(n)]
        assert np.allclose(weights, expected, rtol=1e-12)


def test_average_marginal_effects_over_uniform_densities_are_the_shapley_value() -> None:
    """E[v | i in S] - E[v | i not in S] at each p, over all sets with their chances, integrated by quadrature."""
    n, game, (points, masses) = 5, random_game(), np.polynomial.legendre.leggauss(8)
    coalitions, found = next(exact.powerset(n)), np.zeros((n, 3))
    for p, mass in zip((points + 1) / 2, masses / 2, strict=True):
        chance = np.where(coalitions, p, 1 - p).prod(axis=1)
        inside = (coalitions * chance[:, None]).T @ game.table / p
        outside = (~coalitions * chance[:, None]).T @ game.table / (1 - p)
        found += mass * (inside - outside)
    assert np.allclose(found, exact.semivalues(game, exact.shapley_weights(n)), atol=1e-10)


# axioms


def test_the_glove_game() -> None:
    found = exact.semivalues(FunctionGame(3, glove), exact.shapley_weights(3))
    assert np.allclose(found[:, 0], [1 / 6, 1 / 6, 4 / 6])


@pytest.mark.parametrize("name", SEMIVALUES)
def test_an_additive_game_pays_everyone_what_they_bring(name: str) -> None:
    worth = np.array([1.0, -2.0, 0.5, 0.0])
    game = FunctionGame(4, lambda coalitions: 3 + coalitions @ worth)
    assert np.allclose(exact.semivalues(game, SEMIVALUES[name](4))[:, 0], worth)
    assert np.allclose(exact.with_interactions(game, np.ones(4), np.ones(3))[1], 0)


def test_shapley_is_efficient_symmetric_and_linear() -> None:
    n, (game, other) = 5, (random_game(seed=0), random_game(seed=1))
    weights = exact.shapley_weights(n)
    found = exact.semivalues(game, weights)
    assert np.allclose(found.sum(axis=0), gain(game), atol=1e-13)
    mixed = exact.semivalues(TableGame(2 * game.table - 3 * other.table), weights)
    assert np.allclose(mixed, 2 * found - 3 * exact.semivalues(other, weights), atol=1e-13)
    coalitions = next(exact.powerset(n))
    swapped = game.values(coalitions[:, [1, 0, 2, 3, 4]])
    symmetric = exact.semivalues(TableGame(game.table + swapped), weights)
    assert np.allclose(symmetric[0], symmetric[1], atol=1e-13)


def test_a_player_who_changes_nothing_gets_nothing() -> None:
    game = random_game(4)
    coalitions = next(exact.powerset(5))
    table = TableGame(game.values(coalitions[:, [0, 1, 3, 4]]))  # player 2 is ignored
    for name in SEMIVALUES:
        assert np.allclose(exact.semivalues(table, SEMIVALUES[name](5))[2], 0, atol=1e-14)


def test_banzhaf_and_interactions_are_not_efficient() -> None:
    n, game = 5, random_game()
    banzhaf = exact.semivalues(game, SEMIVALUES["banzhaf"](n))
    assert np.abs(banzhaf.sum(axis=0) - gain(game)).min() > 0.02
    singles, pairs = exact.with_interactions(game, exact.shapley_weights(n), exact.interaction_weights(n))
    assert np.abs(singles.sum(axis=0) + pairs.sum(axis=0) - gain(game)).min() > 0.02


# pairs


def test_interactions_from_moebius_coefficients() -> None:
    n, game = 5, random_game()
    m, size = moebius(game.table), np.maximum(sizes(5), 2)[:, None]
    for weights, share in (
        (exact.interaction_weights(n), m / (size - 1)),
        (exact.taylor_weights(n), m / (size * (size - 1) / 2)),
    ):
        pairs = exact.with_interactions(game, exact.shapley_weights(n), weights)[1]
        expected = [share[supersets(n, i, j) == 1].sum(axis=0) for i, j in zip(*exact.all_pairs(n), strict=True)]
        assert np.allclose(pairs, expected, atol=1e-13)


def test_taylor_is_efficient_with_differences_at_the_empty_set_and_with_nothing_else() -> None:
    n, game = 5, random_game()
    singles, pairs = exact.with_interactions(game, exact.weights_of_nobody(n), exact.taylor_weights(n))
    assert np.allclose(singles, game.table[1 << np.arange(n)] - game.table[0])
    assert np.allclose(singles.sum(axis=0) + pairs.sum(axis=0), gain(game), atol=1e-13)
    printed = exact.semivalues(game, exact.shapley_weights(n))  # the survey's (21) read for single players too
    assert np.abs(printed.sum(axis=0) + pairs.sum(axis=0) - gain(game)).min() > 0.02


def test_the_interaction_index_reduces_to_shapley_with_and_without_a_player() -> None:
    """I(ij) is the value of i when j is always there minus that when j never is."""
    n, game = 4, random_game(4)
    pairs = exact.with_interactions(game, exact.shapley_weights(n), exact.interaction_weights(n))[1]
    others = next(exact.powerset(n - 1))
    for (i, j), pair in zip(itertools.combinations(range(n), 2), pairs, strict=True):
        halves = [game.values(np.insert(others, j, there, axis=1)) for there in (True, False)]
        place = i  # i < j keeps its place without j
        present, absent = (exact.semivalues(TableGame(half), exact.shapley_weights(n - 1))[place] for half in halves)
        assert np.allclose(pair, present - absent, atol=1e-13)


def test_interactions_of_a_unanimity_game() -> None:
    game = FunctionGame(5, lambda coalitions: coalitions[:, [0, 2, 3]].all(axis=1))
    pairs = exact.with_interactions(game, exact.shapley_weights(5), exact.interaction_weights(5))[1][:, 0]
    inside = [{i, j} <= {0, 2, 3} for i, j in zip(*exact.all_pairs(5), strict=True)]
    assert np.allclose(pairs, np.where(inside, 1 / 2, 0))


@pytest.mark.parametrize("index", ["interaction", "taylor"])
def test_pairs_over_all_permutations_are_exact(index: str) -> None:
    n, game = 5, random_game()
    if index == "interaction":
        found, weights = adjacent(game, all_orders(n)), (exact.shapley_weights(n), exact.interaction_weights(n))
    else:
        found, weights = taylor(game, all_orders(n)), (exact.weights_of_nobody(n), exact.taylor_weights(n))
    singles, pairs = exact.with_interactions(game, *weights)
    assert np.allclose(found.pairs[:, :-1], pairs, atol=1e-13)
    if index == "interaction":
        assert np.allclose(found.values[:, :-1], singles, atol=1e-13)
    assert np.allclose(found.values[:, :-1].sum(axis=0), gain(game), atol=1e-13)


def test_pairs_that_were_never_neighbours_have_no_interaction() -> None:
    found = adjacent(random_game(4), np.array([[0, 1, 2, 3]]))
    assert np.isnan(found.pairs[found.visits == 0]).all() and np.isfinite(found.pairs[found.visits > 0]).all()
    assert found.visits.sum() == 3 and np.isnan(found.pairs_stderr).all()


# permutations


def test_every_permutation_telescopes_and_a_truncated_one_to_its_last_prefix() -> None:
    n, game = 8, random_game(8)
    rng = np.random.default_rng(0)
    order = rng.permutation(n)[None]
    whole = sampled(game, order, np.ones(n), NEVER, block=3)
    assert np.allclose(whole.values[:, :-1].sum(axis=0), gain(game), atol=1e-13)
    joint = game.values(prefixes_of(order)[0]).mean(axis=1)
    start = game.table[0].mean()
    tolerance = 0.6
    near = np.abs(joint[-1] - joint) <= tolerance * abs(joint[-1] - start)
    last = next(q for q in range(1, n) if near[q - 1] and near[q])
    assert last < n - 1
    for block in (1, 3, 8):
        cut = sampled(
            game, order, np.ones(n), NEVER, block=block, truncation=Truncation(tolerance=tolerance, patience=2)
        )
        expected = game.values(prefixes_of(order)[0][last : last + 1])[0] - game.table[0]
        assert np.allclose(cut.values[:, :-1].sum(axis=0), expected, atol=1e-13)
        assert (cut.values[order[0, last + 1 :]] == 0).all() and cut.walked == (last + 1) / n


def test_a_prefix_far_from_the_whole_starts_the_count_again() -> None:
    by_size = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 5.0, 1.0])  # near at 1, 3 and 4 players
    game, orders = FunctionGame(6, lambda coalitions: by_size[coalitions.sum(axis=1)]), np.arange(6)[None]
    for block in (1, 2, 6):
        rule = Truncation(tolerance=0.1, patience=2)
        found = sampled(game, orders, np.ones(6), NEVER, block=block, truncation=rule)
        assert found.values[:, 0].tolist() == [1, -1, 1, 0, 0, 0] and found.walked == 4 / 6


def test_truncation_does_not_depend_on_the_level_of_values() -> None:
    """A tolerance relative to v(D) would change when a constant is added, and never hold for negative values."""
    orders = drawn(np.arange(8), 20, False, np.random.default_rng(0))
    game, rule = random_game(8), Truncation(tolerance=0.5, patience=1)
    raised = TableGame(game.table - 100)
    first, second = (sampled(g, orders, np.ones(8), NEVER, truncation=rule) for g in (game, raised))
    assert 0 < first.walked < 1 and first.walked == second.walked
    assert np.allclose(first.values, second.values, atol=1e-11)


def test_a_longer_draw_goes_on_and_antithetic_permutations_come_with_their_reverses() -> None:
    ids = np.array([7, 3, 9, 1])
    for antithetic in (False, True):
        few, many = (drawn(ids, count, antithetic, np.random.default_rng(0)) for count in (4, 10))
        assert np.array_equal(few, many[:4])
    assert np.array_equal(many[1::2], many[::2, ::-1])
    again = drawn(ids[::-1].copy(), 10, True, np.random.default_rng(0))
    assert np.array_equal(3 - again, many)


def coverage(weights: np.ndarray, antithetic: bool) -> np.ndarray:
    """How often 95% intervals hold the exact value: 200 replications, played at once as columns of one game each."""
    n, game, rng = 5, random_game(5, 4), np.random.default_rng(1)
    truth, hits = exact.semivalues(game, weights), []
    for _ in range(200):
        orders = drawn(np.arange(n), 120, antithetic, rng)
        found = sampled(game, orders, of_positions(weights), NEVER, antithetic=antithetic)
        hits.append(np.abs(found.values[:, :-1] - truth) <= 1.96 * found.stderr[:, :-1])
    return np.mean(hits)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("name", ["shapley", "beta(4, 1)"])
def test_intervals_of_sampled_values_hold_the_exact_value(name: str, antithetic: bool) -> None:
    assert 0.92 <= coverage(SEMIVALUES[name](5), antithetic) <= 0.98


def saturating(players: int, columns: int = 4) -> FunctionGame:
    """Half of the players are worth almost as much as all."""
    worth = np.random.default_rng(0).uniform(0.5, 1.5, size=(players, columns))
    return FunctionGame(players, lambda coalitions: 1 - np.exp(-0.7 * coalitions @ worth))


def test_intervals_of_values_truncated_as_by_default_hold_the_exact_value() -> None:
    n = 14
    game, rng, hits, rule = saturating(n), np.random.default_rng(1), [], Truncation(tolerance=0.01, patience=6)
    truth = exact.semivalues(game, exact.shapley_weights(n))
    for _ in range(100):
        orders = drawn(np.arange(n), 240, True, rng)
        found = sampled(game, orders, np.ones(n), NEVER, antithetic=True, truncation=rule)
        hits.append(np.abs(found.values[:, :-1] - truth) <= 1.96 * found.stderr[:, :-1])
        assert 0.5 < found.walked < 0.99
    assert 0.92 <= np.mean(hits) <= 0.98


def test_intervals_of_sampled_interactions_hold_the_exact_value() -> None:
    n, game, rng = 5, random_game(5, 4), np.random.default_rng(1)
    truths = [
        exact.with_interactions(game, exact.shapley_weights(n), weights)[1]
        for weights in (exact.interaction_weights(n), exact.taylor_weights(n))
    ]
    hits = []
    for _ in range(200):
        orders = drawn(np.arange(n), 120, False, rng)
        pairs = [index(game, orders) for index in (adjacent, taylor)]
        z = [(p.pairs[:, :-1] - truth) / p.pairs_stderr[:, :-1] for p, truth in zip(pairs, truths, strict=True)]
        hits.append([(np.abs(each) <= 1.96).mean() for each in z])
    assert ((np.mean(hits, axis=0) >= 0.92) & (np.mean(hits, axis=0) <= 0.98)).all()


# moments


def test_moments_do_not_depend_on_batches_nor_on_the_level() -> None:
    rng = np.random.default_rng(0)
    rows, cells = 1e8 + rng.normal(size=(50, 2)), rng.integers(4, size=50)
    moments, scattered = Moments.of(2), Scattered.of(5, 2)
    for part in np.split(np.arange(50), [1, 7, 30]):
        moments.add(rows[part])
        scattered.add(cells[part], rows[part])
    assert np.allclose(moments.mean, rows.mean(axis=0), rtol=1e-15)
    assert np.allclose(moments.stderr, rows.std(axis=0, ddof=1) / np.sqrt(50), rtol=1e-6)
    for cell in range(4):
        mine = rows[cells == cell]
        assert np.allclose(scattered.values[cell], mine.mean(axis=0), rtol=1e-15)
        assert np.allclose(scattered.stderr[cell], mine.std(axis=0, ddof=1) / np.sqrt(len(mine)), rtol=1e-6)
    assert np.isnan(scattered.values[4]).all() and np.isnan(scattered.stderr[4]).all()
