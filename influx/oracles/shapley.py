"""Cooperative games, by training every coalition on its own with torch's optimizers and summing definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, pairwise
from math import comb, factorial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import beta as beta_function

from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import plain, players_other
from influx.oracles.coalitions import Played, moebius, semivalue, shapley_value, single, subsets_without, together
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.retraining import EXACT
from influx.oracles.toys import Toy, table, train
from influx.streams import stream

PLAYERS = 6


def permutations(toy: Toy, count: int, antithetic: bool = False) -> list[list[int]]:
    """The orders that an estimator draws: of instances by ascending id, each followed by its reverse if antithetic."""
    rng, rows = stream(toy.problem.seed, "draws/permutations"), np.argsort(toy.train.ids).tolist()
    drawn = []
    for _ in range(count // 2 if antithetic else count):
        order = [rows[k] for k in rng.permutation(len(rows))]
        drawn += [order, order[::-1]] if antithetic else [order]
    return drawn


def walked(v: Played, order: list[int], weight: Callable[[int], float], tolerance: float, patience: int) -> Array:
    """``(players, m)`` weighted marginals along one order, 0 after ``patience`` prefixes near the whole."""
    row, near, whole = np.zeros((len(order), len(v(())))), 0, v(order)
    for q, player in enumerate(order):
        row[player] = weight(q) * (v(order[: q + 1]) - v(order[:q]))
        gap = abs(whole.mean() - v(order[: q + 1]).mean())
        near = near + 1 if tolerance and gap <= tolerance * abs(whole.mean() - v(()).mean()) else 0
        if near == patience:
            break
    return row


def _mean_and_error(label: str, found: Influence, rows: list[Array], unit: int) -> Iterator[Comparison]:
    """Against independent draws, each the mean of ``unit`` rows."""
    draws = np.stack([np.mean(rows[k : k + unit], axis=0) for k in range(0, len(rows), unit)])
    assert found.stderr is not None
    yield compare(label, found.values, draws.mean(axis=0), EXACT)
    yield compare(f"standard error, {label}", found.stderr, draws.std(axis=0, ddof=1) / np.sqrt(len(draws)), EXACT)


def _toy(below: Path) -> Toy:
    return train(below, table(n_train=PLAYERS), MLP(width=4), SGD(lr=0.3, momentum=0.5, weight_decay=0.05))


def shapley(below: Path) -> Iterator[Comparison]:
    """The definition over all coalitions, and the gain of training."""
    toy = _toy(below)
    v = single(toy)
    found = toy.estimate("shapley").values
    yield compare("definition, one training per coalition", found, shapley_value(v), EXACT)
    yield compare("sum over instances is the gain of training", found.sum(axis=0), v(range(PLAYERS)) - v(()), EXACT)
    uniform = single(toy, empty=np.full(len(toy.test), -np.log(3)))
    yield compare(
        "empty set guesses", toy.estimate("shapley", empty_value="uniform").values, shapley_value(uniform), EXACT
    )
    accuracy = single(toy, zero_one=True)
    yield compare("zero-one loss", toy.estimate("shapley", target="zero_one").values, shapley_value(accuracy), EXACT)
    labels = sorted(set(toy.train.y.tolist()))
    groups = Played(toy, [np.flatnonzero(toy.train.y == label).tolist() for label in labels])
    shared = np.zeros_like(found)
    for rows, value in zip(groups.members, shapley_value(groups), strict=True):
        shared[rows] = value / len(rows)
    yield compare("classes as players", toy.estimate("shapley", groups="label").values, shared, EXACT)
    both = toy.estimate("shapley", seeds=2)
    yield compare("the first seed is the trained model's own", both.replicates[0], found, EXACT)
    yield compare("mean over seeds", both.values, (both.replicates[0] + both.replicates[1]) / 2, EXACT)


def tmc_shapley(below: Path) -> Iterator[Comparison]:
    """One permutation and one training at a time."""
    toy = _toy(below)
    v = single(toy)
    for tolerance, antithetic in ((0.0, True), (0.4, True), (0.4, False)):
        settings = {"permutations": 20, "truncation": tolerance, "patience": 2, "stop": "budget"}
        found = toy.estimate("tmc_shapley", antithetic=antithetic, **settings)
        orders = permutations(toy, 20, antithetic)
        rows = [walked(v, order, lambda q: 1.0, tolerance, 2) for order in orders]
        label = f"permutations, truncation={tolerance:g}, antithetic={str(antithetic).lower()}"
        yield from _mean_and_error(label, found, rows, 2 if antithetic else 1)
    many = toy.estimate("tmc_shapley", permutations=4000, truncation=0.0, stop="budget", check_every=1000)
    assert many.stderr is not None
    error = float(np.abs((many.values - shapley_value(v)) / many.stderr).max())
    yield Comparison("4000 permutations against the definition, in standard errors", error, 5.0)


def beta_shapley(below: Path) -> Iterator[Comparison]:
    """Weighted permutations, and the definition."""
    toy = _toy(below)
    v, n = single(toy), PLAYERS
    for a, b in ((4.0, 1.0), (1.0, 4.0), (16.0, 1.0)):

        def of_size(size: int, a: float = a, b: float = b) -> float:
            return float(beta_function(size + b, n - 1 - size + a) / beta_function(a, b))

        def at(q: int, weight: Callable[[int], float] = of_size) -> float:
            return n * comb(n - 1, q) * weight(q)

        found = toy.estimate("beta_shapley", alpha=a, beta=b, permutations=20, stop="budget")
        rows = [walked(v, order, at, 0.0, 1) for order in permutations(toy, 20, antithetic=True)]
        yield from _mean_and_error(f"permutations, alpha={a:g}, beta={b:g}", found, rows, 2)
        many = toy.estimate("beta_shapley", alpha=a, beta=b, permutations=4000, stop="budget", check_every=1000)
        assert many.stderr is not None
        error = float(np.abs((many.values - semivalue(v, of_size)) / many.stderr).max())
        yield Comparison(f"4000 permutations against the definition, alpha={a:g}, in standard errors", error, 5.0)


def _pairs(found: Influence, toy: Toy) -> dict[tuple[int, int], Array]:
    """Interactions per pair of training rows, from the table with a row per test instance."""
    rows = {int(identity): row for row, identity in enumerate(toy.train.ids)}
    by_pair: dict[tuple[int, int], list[float]] = {}
    for first, second, value in found.tables["interactions_by_test"][["first", "second", "value"]].to_numpy():
        by_pair.setdefault((rows[int(first)], rows[int(second)]), []).append(float(value))
    return {pair: np.array(values) for pair, values in by_pair.items()}


def shapley_interaction(below: Path) -> Iterator[Comparison]:
    """The definition over all coalitions, and neighbours in permutations."""
    toy = _toy(below)
    v, n = single(toy), PLAYERS
    weights = [factorial(n - 2 - size) * factorial(size) / factorial(n - 1) for size in range(n - 1)]
    expected = {
        (i, j): np.asarray(sum(weights[len(s)] * together(v, s, i, j) for s in subsets_without(n, i, j)))
        for i, j in combinations(range(n), 2)
    }
    exact = toy.estimate("shapley_interaction")
    yield compare("definition", _stacked(_pairs(exact, toy), expected), _stacked(expected, expected), EXACT)
    coefficients = moebius(v)
    by_moebius = {
        pair: np.asarray(sum(m / (len(t) - 1) for t, m in coefficients.items() if t >= set(pair))) for pair in expected
    }
    yield compare("Moebius", _stacked(_pairs(exact, toy), expected), _stacked(by_moebius, expected), EXACT)
    yield compare("the matrix holds Shapley values", exact.values, shapley_value(v), EXACT)
    found = toy.estimate("shapley_interaction", estimator="permutation", permutations=60)
    seen: dict[tuple[int, int], list[Array]] = {pair: [] for pair in expected}
    orders = permutations(toy, 60)
    for order in orders:
        for q, (i, j) in enumerate(pairwise(order)):
            seen[min(i, j), max(i, j)].append(together(v, order[:q], i, j))
    means = {pair: np.mean(rows, axis=0) for pair, rows in seen.items()}
    yield compare("neighbours", _stacked(_pairs(found, toy), expected), _stacked(means, expected), EXACT)
    rows = [walked(v, order, lambda q: 1.0, 0.0, 1) for order in orders]
    yield from _mean_and_error("marginals of the same permutations", found, rows, 1)


def shapley_taylor(below: Path) -> Iterator[Comparison]:
    """Moebius coefficients, the gain of training, and pairs in permutations."""
    toy = _toy(below)
    v, n = single(toy), PLAYERS
    coefficients = moebius(v)
    expected = {
        pair: np.asarray(sum(m / comb(len(t), 2) for t, m in coefficients.items() if t >= set(pair)))
        for pair in combinations(range(n), 2)
    }
    exact = toy.estimate("shapley_taylor")
    yield compare("Moebius", _stacked(_pairs(exact, toy), expected), _stacked(expected, expected), EXACT)
    yield compare("sum is the gain of training", exact.values.sum(axis=0), v(range(n)) - v(()), EXACT)
    yield compare("players with halves of pairs", exact.values, _with_halves(v, expected), EXACT)
    found = toy.estimate("shapley_taylor", estimator="permutation", permutations=20)
    rows, each = [], []
    for order in permutations(toy, 20):
        one = {(min(i, j), max(i, j)): together(v, order[: order.index(i)], i, j) for i, j in combinations(order, 2)}
        each.append(one)
        rows.append(_with_halves(v, one))
    means = {pair: np.mean([one[pair] for one in each], axis=0) for pair in expected}
    yield compare("pairs in permutations", _stacked(_pairs(found, toy), expected), _stacked(means, expected), EXACT)
    yield from _mean_and_error("players in permutations", found, rows, 1)


def _stacked(pairs: dict[tuple[int, int], Array], order: Iterable[tuple[int, int]]) -> Array:
    return np.stack([pairs[pair] for pair in order])


def _with_halves(v: Played, pairs: dict[tuple[int, int], Array]) -> Array:
    """``(players, m)`` v(i) - v(∅) and half of every pair's interaction."""
    values = np.stack([v({i}) - v(()) for i in range(len(v.members))])
    for pair, value in pairs.items():
        values[list(pair)] += value / 2
    return values


def g_shapley(below: Path) -> Iterator[Comparison]:
    """One pass at a time with torch.optim.SGD, and the fall of the risk over passes."""
    toy = _toy(below)
    for batch, lr in ((1, None), (2, 0.05)):
        found = toy.estimate("g_shapley", batch_size=batch, lr=lr, permutations=8, stop="budget")
        orders = permutations(toy, 8)
        rows = [_pass(toy, order, batch, toy.learner.optimizer.lr if lr is None else lr) for order in orders]
        yield from _mean_and_error(f"torch.optim, batch_size={batch}", found, rows, 1)


def _pass(toy: Toy, order: list[int], batch: int, lr: float) -> NDArray[np.float64]:
    """``(n, m)`` falls of the risk at each instance's step, shared by a batch."""
    module, (x, y) = toy.module(0), toy.tensors(toy.train)
    optimizer, rows = torch.optim.SGD(module.parameters(), lr=lr), np.zeros((len(order), len(toy.test)))
    for start in range(0, len(order), batch):
        taken = order[start : start + batch]
        before = plain.losses(toy, module, toy.test)
        optimizer.zero_grad()
        plain.risks(toy.task, module(x[taken]), y[taken]).mean().backward()
        optimizer.step()
        rows[taken] = (before - plain.losses(toy, module, toy.test)) / len(taken)
    return rows


ORACLES = {
    "shapley": shapley,
    "tmc_shapley": tmc_shapley,
    "beta_shapley": beta_shapley,
    "shapley_interaction": shapley_interaction,
    "shapley_taylor": shapley_taylor,
    "g_shapley": g_shapley,
    **players_other.ORACLES,
}
