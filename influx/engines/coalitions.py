"""Values of players and pairs from all coalitions of a game, and by weighted least squares from some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from influx.engines.games import Array, Coalitions, Game

POWERSET_BYTES = 16 << 20  # of the coefficients of coalitions that are valued at a time
POWERSET_LEAST = 256  # coalitions that are, whatever they take


def log_binomial(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def shapley_weights(players: int) -> Array:
    """``(players,)`` weight of a coalition of each size without the player: 1 / (n C(n - 1, s))."""
    return np.exp([-log_binomial(players - 1, size) for size in range(players)]) / players


def log_beta_weights(players: int, alpha: float, beta: float) -> Array:
    """``(players,)`` logarithms of the weights of the Beta(alpha, beta) semivalue.

    The weights are B(s + beta, n - 1 - s + alpha) / B(alpha, beta).
    """
    constant = lgamma(alpha + beta) - lgamma(alpha) - lgamma(beta) - lgamma(players - 1 + alpha + beta)
    return np.array([constant + lgamma(size + beta) + lgamma(players - 1 - size + alpha) for size in range(players)])


def beta_weights(players: int, alpha: float, beta: float) -> Array:
    """``(players,)`` weights of the Beta(alpha, beta) semivalue; 0 where they are too small for a number."""
    return np.exp(log_beta_weights(players, alpha, beta))


def of_positions(log_weights: Array) -> Array:
    """``(players,)`` factors of the marginals at each position of a uniform permutation, which weigh them.

    n C(n - 1, s) w_s, from logarithms because w_s itself is too small for a number above a thousand players; their mean
    is 1, and all are 1 for the Shapley value.
    """
    players = len(log_weights)
    log_counts = np.array([log_binomial(players - 1, size) for size in range(players)])
    return np.asarray(np.exp(log_weights + log_counts + np.log(players)))


def interaction_weights(players: int) -> Array:
    """``(players - 1,)`` of the Shapley interaction index of pairs: (n - 2 - s)! s! / (n - 1)!."""
    return np.exp([-log_binomial(players - 2, size) for size in range(players - 1)]) / (players - 1)


def taylor_weights(players: int) -> Array:
    """``(players - 1,)`` of the Shapley-Taylor index of order 2 for pairs: 2 / (n C(n - 1, s))."""
    return 2 * shapley_weights(players)[:-1]


def weights_of_nobody(players: int) -> Array:
    """``(players,)`` of v(i) - v(∅)."""
    return np.asarray(np.eye(1, players)[0])


def all_pairs(players: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and second players of all pairs, in the order of ``interactions``."""
    first, second = np.triu_indices(players, 1)
    return first.astype(np.int64), second.astype(np.int64)


def expected_distinct(permutations: int, by_size: Array) -> float:
    """Expected number of different coalitions among those of random permutations.

    Args:
        permutations: how many.
        by_size: ``(players + 1,)`` how many coalitions of each size one permutation has, all different. By symmetry
            each is uniform among all of its size.
    """
    players, total = len(by_size) - 1, 0.0
    for size in np.flatnonzero(by_size).tolist():
        log_count = log_binomial(players, size)
        asked = permutations * float(by_size[size])
        if log_count > np.log(asked) + 25:
            total += asked
        elif by_size[size] >= round(np.exp(log_count)):
            total += round(np.exp(log_count))
        else:
            total -= np.exp(log_count) * np.expm1(permutations * np.log1p(-by_size[size] / np.exp(log_count)))
    return float(total)


def powerset_part(players: int) -> int:
    """How many coalitions come at a time."""
    return max(POWERSET_BYTES // (8 * players * (players + 1)), POWERSET_LEAST)


def powerset(players: int) -> Iterator[Coalitions]:
    """All coalitions (K, players), some at a time; the k-th holds the players whose bit is set in k."""
    size = powerset_part(players)
    for start in range(0, 1 << players, size):
        numbers = np.arange(start, min(start + size, 1 << players))
        yield (numbers[:, None] >> np.arange(players) & 1).astype(bool)


def semivalues(game: Game, weights: Array) -> Array:
    """``(players, m)`` Σ_S w_|S| (v(S + i) - v(S)) over the coalitions without i; ``weights`` (players,)."""
    return _summed(game, lambda coalitions: _marginal(coalitions, weights))


def with_interactions(game: Game, weights: Array, pair_weights: Array) -> tuple[Array, Array]:
    """Semivalues, and ``(pairs, m)`` Σ_S w_|S| (v(S + i + j) - v(S + i) - v(S + j) + v(S)).

    ``pair_weights`` is (players - 1,); every coalition is valued once.
    """

    def coefficients(coalitions: Coalitions) -> Array:
        return np.concatenate([_marginal(coalitions, weights), _of_pairs(coalitions, pair_weights)], axis=1)

    both = _summed(game, coefficients)
    return both[: game.players], both[game.players :]


def _summed(game: Game, coefficients: Callable[[Coalitions], Array]) -> Array:
    """Σ_S coefficient (K, rows) of each coalition times its value."""
    parts = (coefficients(part).T @ game.values(part) for part in powerset(game.players))
    total = next(parts)
    for part in parts:
        total += part
    return total


def _marginal(coalitions: Coalitions, weights: Array) -> Array:
    size = coalitions.sum(axis=1)
    padded = np.append(weights, 0.0)  # the full coalition has nobody outside, the empty one nobody inside
    return np.asarray(np.where(coalitions, padded[size - 1][:, None], -padded[size][:, None]))


def _of_pairs(coalitions: Coalitions, weights: Array) -> Array:
    first, second = all_pairs(coalitions.shape[1])
    inside = coalitions[:, first].astype(np.int64) + coalitions[:, second]
    sign = 1.0 - 2.0 * (inside == 1)
    return np.asarray(sign * weights[coalitions.sum(axis=1)[:, None] - inside])


def kernel_weights(players: int, sizes: NDArray[np.int64]) -> Array:
    """Weights under which least squares give the Shapley value: (n - 1) / (C(n, s) s (n - s)), for 0 < s < n."""
    counts = np.exp([log_binomial(players, int(size)) for size in sizes])
    return np.asarray((players - 1) / (counts * sizes * (players - sizes)))


def constrained_least_squares(
    coalitions: Coalitions, values: Array, weights: Array, empty: Array, full: Array
) -> Array:
    """``(players, m)`` additive game nearest to ``values`` (K, m), agreeing with ``empty`` and ``full`` (m,).

    The last player is eliminated by v(∅) + Σ φ = v(D); with the kernel's weights this is KernelSHAP (Lundberg & Lee
    2017), and with all coalitions the Shapley value.
    """
    z, root = coalitions.astype(np.float64), np.sqrt(weights)[:, None]
    others = z[:, :-1] - z[:, -1:]
    rest = values - empty - z[:, -1:] * (full - empty)
    phi = np.linalg.lstsq(root * others, root * rest, rcond=None)[0]
    return np.concatenate([phi, (full - empty - phi.sum(axis=0))[None]])
