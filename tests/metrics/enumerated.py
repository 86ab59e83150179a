"""Risks of 0 and 1 known for every set of weights, so that expectations over random ones are found by enumeration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import beta as beta_function

from influx.influence import Influence
from influx.metrics.concentration import Concentration, concentration
from influx.oracles import toys
from influx.oracles.toys import estimator_named
from influx.problem import Split

Array = NDArray[np.float64]
Risk = Callable[[NDArray[Any]], Array]  # weights (models, n) -> chance of errors on training, then on test instances
LEVEL = 0.9
N, M = 6, 60
EVERY = np.array(list(product((0, 1), repeat=N)))


@cache
def bootstraps() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Different bootstrap samples as weights (462, N), and how many of N^N sequences of draws make each."""
    draws = np.array(list(product(range(N), repeat=N)))
    found = np.unique((draws[:, :, None] == np.arange(N)).sum(axis=1), axis=0, return_counts=True)
    return found[0], found[1]


def of_size(size: int) -> NDArray[Any]:
    """All subsets of that size."""
    return EVERY[EVERY.sum(axis=1) == size]


def coins(base: int, certain: bool = True) -> Risk:
    """Fair coins that each set of weights below ``base`` tosses once for every instance, or chances of its own."""
    rng, shape = np.random.default_rng(0), (base**N, N + M)
    table = rng.integers(0, 2, shape, dtype=np.uint8) if certain else rng.random(shape)
    return lambda weights: table[weights.astype(np.int64) @ base ** np.arange(N)].astype(np.float64)


def parities(*chosen: tuple[int, ...]) -> Risk:
    """Test instance j is wrong after an odd number of the training instances ``chosen[j]``: every marginal is ±1."""

    def risk(weights: NDArray[Any]) -> Array:
        inside = weights > 0
        odd = np.stack([inside[:, list(some)].sum(axis=1) % 2 for some in chosen], axis=1)
        return np.concatenate([np.zeros(inside.shape), odd], axis=1)

    return risk


def run_of(risk: Risk, n: int, seed: int) -> Any:
    """What a sampled estimator touches of a run; each ``seed`` draws other subsets, and other seeds of training."""
    m = risk(np.ones((1, n))).shape[1] - n
    data, luck = toys.table(n_train=n, n_test=m), np.random.default_rng([seed, 1]).random((100, n + m))

    def guesses(wrong: NDArray[np.bool_], split: Split) -> Any:
        return SimpleNamespace(prediction=np.where(wrong, -1, split.y))

    def parts(design: Any, label: str) -> Iterator[tuple[NDArray[np.int64], Any, Any]]:
        wrong = luck[design.init] < risk(design.weights)
        yield np.arange(len(design)), guesses(wrong[:, :n], data.train), guesses(wrong[:, n:], data.test)

    def drawn(what: str) -> np.random.Generator:
        return np.random.default_rng([seed, *what.encode()])

    problem = SimpleNamespace(data=data, learner=None, train=data.train, test=data.test)
    return SimpleNamespace(
        train=data.train, test=data.test, problem=problem, retrain=SimpleNamespace(parts=parts, problem=problem),
        zeros=lambda: np.zeros((n, m)), influence=lambda values, **fields: Influence(values=values, **fields),
        rng=drawn, drawn=drawn, warn=lambda sentence: None, removal_noise="",
    )  # fmt: skip


def bounded(name: str, settings: dict[str, Any], risk: Risk, n: int, times: int) -> Iterator[Any]:
    """``times`` a run, the estimator, what it finds and the bound on it."""
    estimator: Any = estimator_named(name, {"target": "zero_one"} | settings)
    for seed in range(times):
        run = run_of(risk, n, seed)
        run.again = SimpleNamespace(name=name, estimator=estimator)
        found = estimator.estimate(run)
        bound = concentration(found, run, LEVEL)
        assert isinstance(bound, Concentration), bound
        yield run, estimator, found, bound


def sides(risk: Risk, weights: NDArray[Any], chance: NDArray[Any] | None = None) -> tuple[Array, Array]:
    """``(n, columns)`` expected risk with, and without each training instance; rows as likely as ``chance``."""
    inside, likely = weights > 0, np.ones(len(weights)) if chance is None else chance
    each = [side.T * likely for side in (inside, ~inside)]
    with_, without = (side @ risk(weights) / side.sum(axis=1, keepdims=True) for side in each)
    return with_, without


def gap(risk: Risk, weights: NDArray[Any], chance: NDArray[Any] | None = None) -> Array:
    """``(n, m)`` expected risk of test instances without minus with each training instance."""
    with_, without = sides(risk, weights, chance)
    return (without - with_)[:, N:]


def one_less(risk: Risk) -> Array:
    """The same, one instance less without it: of subsets of 3."""
    return (sides(risk, of_size(2))[1] - sides(risk, of_size(3))[0])[:, N:]


def at_density(risk: Risk, p: float) -> Array:
    """The same for subsets that hold every instance with probability ``p``."""
    inside = EVERY.sum(axis=1)
    return gap(risk, EVERY, p**inside * (1 - p) ** (N - inside))


def over_sizes(risk: Risk, estimator: Any, run: Any) -> Array:
    """The mean over sizes, weighed by the numbers of models of a run."""
    design, sizes = estimator.design(run)
    inside = design.weights.reshape(len(sizes), -1, N).sum(axis=1).astype(float)  # models with each instance
    weights = inside * (estimator.runs - inside)
    each = [w[:, None] * gap(risk, of_size(s)) for w, s in zip(weights, sizes, strict=True)]
    return np.asarray(np.sum(each, axis=0) / weights.sum(axis=0)[:, None])


def semivalue(risk: Risk, n: int, a: float, b: float) -> Array:
    """``(n, m)`` Beta(a, b) Shapley values of minus the risk, from all coalitions."""
    masks = np.arange(1 << n)
    inside = masks[:, None] >> np.arange(n) & 1
    risks, size = risk(inside)[:, n:], inside.sum(axis=1)
    found = []
    for player in range(n):
        others = masks[inside[:, player] == 0]
        weight = beta_function(size[others] + b, n - 1 - size[others] + a) / beta_function(a, b)
        found.append(weight @ (risks[others] - risks[others | 1 << player]))
    return np.array(found)
