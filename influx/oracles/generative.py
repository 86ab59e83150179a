"""Densities and generative estimators, one model and one cell at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.influence import Influence
from influx.learners.densities.gaussian import Gaussian
from influx.learners.densities.learner import DensityLearner
from influx.learners.densities.ppca import PPCA
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import banks
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, bundled, learned, table, train
from influx.streams import stream

EXACT = 1e-9  # float64 sums in another order
DELTA = 0.1  # penalty
Shape = Callable[[Array], Array]  # the data's covariance plus penalty -> the density's


def principal(latent: int) -> Shape:
    """W Wᵀ + σ² I from the largest eigenvalues (Tipping & Bishop 1999, Eq. 7 and 8)."""

    def covariance(given: Array) -> Array:
        vectors, values, _ = np.linalg.svd(given)  # descending
        noise = values[latent:].mean()
        loadings = vectors[:, :latent] * np.sqrt(values[:latent] - noise)
        return np.asarray(loadings @ loadings.T + noise * np.eye(len(given)))

    return covariance


FAMILIES: dict[str, tuple[DensityLearner, Shape]] = {
    "full covariance": (Gaussian(penalty=DELTA), lambda given: given),
    "diagonal": (Gaussian(penalty=DELTA, covariance="diagonal"), lambda given: np.diag(np.diag(given))),
    "spherical": (
        Gaussian(penalty=DELTA, covariance="spherical"),
        lambda given: np.asarray(np.trace(given) / len(given) * np.eye(len(given))),
    ),
    "unit variance": (Gaussian(covariance="unit"), lambda given: np.eye(len(given))),
    "principal components": (PPCA(penalty=DELTA, latent=2), principal(2)),
}


def log_density(x: Array, mean: Array, covariance: Array) -> Array:
    """Of a normal density, ``(n,)``."""
    off = np.linalg.solve(covariance, (x - mean).T).T
    _, determinant = np.linalg.slogdet(covariance)
    return np.asarray(-0.5 * (((x - mean) * off).sum(axis=1) + determinant + x.shape[1] * np.log(2 * np.pi)))


def refitted(shape: Shape, x: Array, weights: Array, added: float) -> tuple[Array, Array]:
    """Mean and covariance of a weighted training set."""
    share = weights / weights.sum()
    mean = share @ x
    return mean, shape((x - mean).T @ np.diag(share) @ (x - mean) + added * np.eye(x.shape[1]))


def wine(n_train: int = 20, n_test: int = 4) -> Any:
    """A table for densities."""
    return replace(bundled("wine", n_train, n_test), task="density")


def _folds(toy: Toy, folds: int, repeats: int) -> NDArray[np.int64]:
    """``(repeats, n)``, dealt in turn in a random order; class by class where classes are learned."""
    found = []
    for repeat in range(repeats):
        rng = stream(toy.problem.seed, f"draws/folds/{repeat}" if repeat else "draws/folds")
        dealt = rng.permutation(len(toy.train)).tolist()
        if toy.task == "classification":
            dealt = sorted(dealt, key=lambda i: int(toy.train.y[i]))
        fold = [0] * len(dealt)
        for place, i in enumerate(dealt):
            fold[i] = place % folds
        found.append(fold)
    return np.array(found)


def _mean(logs: list[float], densities: bool) -> float:
    """Logarithm of the mean density, or mean logarithm."""
    if not densities:
        return float(np.mean(logs))
    return max(logs) + float(np.log(np.mean([np.exp(value - max(logs)) for value in logs])))


def _gap(fold: NDArray[np.int64], i: int, logs: Array, densities: bool, *skip: int) -> tuple[float, float]:
    """Both sides of one cell from ``logs`` (repeats, folds), without the repeats ``skip``."""
    inside: list[float] = []
    outside: list[float] = []
    for repeat, values in enumerate(logs.tolist()):
        for number, value in enumerate(values):
            if repeat not in skip:
                (outside if fold[repeat, i] == number else inside).append(value)
    return _mean(inside, densities), _mean(outside, densities)


def _cell(fold: NDArray[np.int64], i: int, logs: Array, densities: bool, debias: bool, *skip: int) -> float:
    """The value of one cell without the repeats ``skip``, less the jackknife's estimate of its bias if ``debias``."""
    kept = [repeat for repeat in range(len(fold)) if repeat not in skip]
    value = float(np.subtract(*_gap(fold, i, logs, densities, *skip)))
    if not debias:
        return value
    left = [_cell(fold, i, logs, densities, False, *skip, repeat) for repeat in kept]
    return float(len(kept) * value - (len(kept) - 1) * np.mean(left))


def _against(
    label: str,
    found: Influence,
    fold: NDArray[np.int64],
    on_test: Array,
    on_train: Array,
    densities: bool,
    debias: bool,
) -> Iterator[Comparison]:
    """Values, errors and memorization from logarithms of densities (repeats, folds, m) and (repeats, folds, n)."""
    (repeats, n), m = fold.shape, on_test.shape[2]
    value, left = np.empty((n, m + 1)), np.empty((repeats, n, m + 1))
    sides = np.empty((n, 2))
    for i, j in np.ndindex(n, m + 1):
        logs = on_test[:, :, j] if j < m else on_train[:, :, i]
        value[i, j] = _cell(fold, i, logs, densities, debias)
        for repeat in range(repeats):
            left[repeat, i, j] = _cell(fold, i, logs, densities, debias, repeat)
        if j == m:
            sides[i] = _gap(fold, i, logs, densities)
    error = np.sqrt((repeats - 1) / repeats * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    joint = left[:, :, :m].mean(axis=2)
    joint_error = np.sqrt((repeats - 1) / repeats * ((joint - joint.mean(axis=0)) ** 2).sum(axis=0))
    own = found.tables["memorization"]
    assert found.stderr is not None
    yield compare(f"{label}: influence", found.values, value[:, :m], EXACT)
    yield compare(f"{label}: standard error", found.stderr, error[:, :m], EXACT)
    yield compare(f"{label}: memorization", own["influence"], value[:, m], EXACT)
    yield compare(f"{label}: its standard error", own["stderr"], error[:, m], EXACT)
    yield compare(f"{label}: both sides", own[["log_density_with", "log_density_without"]], sides, EXACT)
    yield compare(f"{label}: joint", found.tables["joint"]["influence"], value[:, :m].mean(axis=1), EXACT)
    yield compare(f"{label}: error of joint", found.tables["joint"]["stderr_design"], joint_error, EXACT)


def generative_downsampling(below: Path) -> Iterator[Comparison]:
    """Normal densities refitted one at a time, nets trained one at a time, and leave-one-out in closed form."""
    for label, (learner, shape) in FAMILIES.items():
        toy, folds, repeats = learned(below, wine(), learner), 4, 3
        x, x_test = toy.train.x.astype(np.float64), toy.test.x.astype(np.float64)
        fold = _folds(toy, folds, repeats)
        fits = [[refitted(shape, x, (part != k) * 1.0, DELTA) for k in range(folds)] for part in fold]
        on_test = np.array([[log_density(x_test, *fit) for fit in row] for row in fits])
        on_train = np.array([[log_density(x, *fit) for fit in row] for row in fits])
        settings = {"folds": folds, "repeats": repeats, "debias": label == "diagonal"}
        found = toy.estimate("generative_downsampling", **settings)
        yield from _against(label, found, fold, on_test, on_train, True, label == "diagonal")

    toy, folds, repeats = train(below, table(), MLP(width=4), SGD(lr=0.3)), 3, 2
    fold = _folds(toy, folds, repeats)
    masks = (fold[:, None] != np.arange(folds)[:, None]).reshape(-1, len(toy.train)).astype(np.int64)
    test, own = (-part.reshape(repeats, folds, -1) for part in banks.outcomes(toy, masks))
    for aggregate in ("logmeanexp", "mean_log"):
        found = toy.estimate("generative_downsampling", folds=folds, repeats=repeats, aggregate=aggregate)
        yield from _against(f"classes, {aggregate}", found, fold, test, own, aggregate == "logmeanexp", False)
    yield from _leave_one_out(below)


def _leave_one_out(below: Path) -> Iterator[Comparison]:
    """Of unit variance: without i its distance from the mean is n/(n - 1) times as large."""
    toy = learned(below, wine(), Gaussian(covariance="unit"))
    x, n = toy.train.x.astype(np.float64), len(toy.train)
    distance = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
    found = toy.estimate("generative_downsampling", folds=n, repeats=1)
    without = -0.5 * (n / (n - 1)) ** 2 * distance - 0.5 * x.shape[1] * np.log(2 * np.pi)
    own = found.tables["memorization"]["log_density_without"]
    yield compare("unit variance, leave-one-out in closed form", own, without, EXACT)


ORACLES = {"generative_downsampling": generative_downsampling}
