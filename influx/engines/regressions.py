"""Linear regressions of many outcomes on features of retrained models: least squares and LASSO, all outcomes at once.

Sums of products are collected block by block; what is held is (n, n) and a few (n, outcomes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.planning import Work

Array = NDArray[np.float64]
Features = Callable[[NDArray[np.int64]], Array]  # rows -> (rows, n)
Reader = Callable[[slice], Iterator[tuple[NDArray[np.int64], Array]]]  # range of models -> rows, outcomes, by block
TOLERANCE = 1e-9  # of the conditions of optimality, relative to the penalty that sets all coefficients to 0
CHOOSING = 1e-4  # the same while a penalty is chosen by errors on other models
PARTS = 20  # of the models, of which the jackknife leaves one out at a time
STEPS = 5000
LOOK_EVERY = 5  # steps between looks at the conditions


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Models with features (models, n) and outcomes (models, c); one intercept per stratum."""

    features: Features
    read: Reader
    strata: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.strata)

    @property
    def whole(self) -> slice:
        """All models."""
        return slice(0, len(self))


@dataclass(frozen=True)
class Centres:
    """Means of features (strata, n) and of outcomes (strata, c)."""

    x: Array
    y: Array

    def of(self, sample: Sample, rows: NDArray[np.int64], y: Array) -> tuple[Array, Array]:
        """Features and outcomes without the means of their strata."""
        strata = sample.strata[rows]
        return sample.features(rows) - self.x[strata], y - self.y[strata]


@dataclass(frozen=True)
class Products:
    """Sums over models of products of centred features (n, n), with outcomes (n, c), and of squared outcomes (c,)."""

    count: int
    xx: Array
    xy: Array
    yy: Array

    def __sub__(self, other: Products) -> Products:
        """Without the models of ``other``."""
        return Products(self.count - other.count, self.xx - other.xx, self.xy - other.xy, self.yy - other.yy)

    def mean_square(self, slopes: Array) -> Array:
        """``(c,)`` mean squared residual of centred outcomes."""
        squares = self.yy - 2 * (slopes * self.xy).sum(axis=0) + (slopes * (self.xx @ slopes)).sum(axis=0)
        return np.asarray(np.maximum(squares, 0) / self.count)


def centres(sample: Sample, rows: slice) -> Centres:
    """Means within the strata of a range of models."""
    groups = int(sample.strata.max()) + 1
    counts = np.maximum(np.bincount(sample.strata[rows], minlength=groups), 1)[:, None]
    x, y = 0.0, 0.0
    for part, outcomes in sample.read(rows):
        inside = (sample.strata[part] == np.arange(groups)[:, None]).astype(np.float64)
        x, y = x + inside @ sample.features(part), y + inside @ outcomes
    return Centres(np.asarray(x) / counts, np.asarray(y) / counts)


def products(sample: Sample, centre: Centres, rows: slice) -> Products:
    """Sums of products over a range of models."""
    n, c = centre.x.shape[1], centre.y.shape[1]
    xx, xy, yy = np.zeros((n, n)), np.zeros((n, c)), np.zeros(c)
    for part, outcomes in sample.read(rows):
        x, y = centre.of(sample, part, outcomes)
        xx, xy, yy = xx + x.T @ x, xy + x.T @ y, yy + (y * y).sum(axis=0)
    return Products(rows.stop - rows.start, xx, xy, yy)


def least_squares(sample: Sample) -> tuple[Array, Array]:
    """Slopes (n, c) and their HC3 standard errors, by two passes over the models.

    HC3 divides each residual by one minus its leverage; it holds with unequal variances.

    Raises:
        ConfigError: the features do not determine the slopes.
    """
    centre = centres(sample, sample.whole)
    sums = products(sample, centre, sample.whole)
    if len(sample) <= len(sums.xx) + 1 or np.linalg.cond(sums.xx) > 1e12:
        raise ConfigError(
            f"{len(sample)} models do not determine the effects of {len(sums.xx)} training instances by least "
            "squares; raise estimator.models"
        )
    inverse = np.linalg.inv(sums.xx)
    slopes, square = inverse @ sums.xy, 0.0
    sizes = np.bincount(sample.strata).astype(np.float64)
    for part, outcomes in sample.read(sample.whole):
        x, y = centre.of(sample, part, outcomes)
        pull = x @ inverse  # how far each outcome moves each slope
        leverage = 1 / sizes[sample.strata[part]] + (pull * x).sum(axis=1)
        residual = (y - x @ slopes) / np.maximum(1 - leverage, 1e-9)[:, None]
        square = square + (pull**2).T @ residual**2
    return slopes, np.sqrt(square)


def lasso(
    gram: Array,
    cross: Array,
    penalty: Array,
    start: Array | None = None,
    tolerance: float = TOLERANCE,
    step: float | None = None,
) -> Array:
    """Minimisers (n, c) of bᵀ gram b / 2 - crossᵀ b + penalty |b|₁, one column per outcome.

    Accelerated proximal gradient steps for all columns at once; a column restarts its momentum when it overshoots.
    ``step`` is ``stride(gram)``, where it is known.
    """
    step = stride(gram) if step is None else step
    slopes = np.zeros_like(cross) if start is None else start
    ahead, momentum = slopes, np.ones(cross.shape[1])
    for number in range(STEPS):
        if number % LOOK_EVERY == 0 and violation(gram, cross, penalty, slopes) <= tolerance:
            break
        moved = ahead - step * (gram @ ahead - cross)
        found = np.sign(moved) * np.maximum(np.abs(moved) - step * penalty, 0)
        momentum = np.where(((ahead - found) * (found - slopes)).sum(axis=0) > 0, 1.0, momentum)
        further = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = found + (momentum - 1) / further * (found - slopes)
        slopes, momentum = found, further
    return slopes


def stride(gram: Array) -> float:
    """The longest step that cannot diverge."""
    return 1 / max(float(np.linalg.eigvalsh(gram)[-1]), 1e-300)


def violation(gram: Array, cross: Array, penalty: Array, slopes: Array) -> float:
    """How far the conditions of optimality of ``lasso`` are missed, relative to the largest useful penalty."""
    slope = gram @ slopes - cross
    missed = np.where(slopes != 0, np.abs(slope + penalty * np.sign(slopes)), np.maximum(np.abs(slope) - penalty, 0))
    largest = np.abs(cross).max(axis=0)
    return float((missed.max(axis=0) / np.where(largest > 0, largest, 1)).max(initial=0.0))


def on_support(gram: Array, cross: Array, support: NDArray[np.bool_]) -> Array:
    """Least squares on each column's own support (n, c), by conjugate gradients for all columns at once."""
    slopes, residual = np.zeros_like(cross), cross * support
    direction, square = residual, (residual**2).sum(axis=0)
    goal = 1e-26 * square
    for _ in range(4 * len(gram)):
        live = square > goal
        if not live.any():
            break
        image = (gram @ direction) * support
        along = np.where(live, square / np.where(live, (direction * image).sum(axis=0), 1), 0)
        slopes, residual = slopes + along * direction, residual - along * image
        newer = (residual**2).sum(axis=0)
        direction = residual + np.where(live, newer / np.where(live, square, 1), 0) * direction
        square = newer
    return slopes


def doubt(missed: float) -> str:
    """A sentence on a ``violation`` that is no rounding, or nothing."""
    if missed <= 1e-6:
        return ""
    return f"the LASSO stopped {missed:.1g} short of its optimum; raise estimator.models or estimator.path_ratio"


def penalties(cross: Array, count: int, ratio: float) -> Array:
    """``(count, c)`` penalties from the one that sets all slopes to 0 down to ``ratio`` of it, in equal ratios."""
    return np.asarray(np.abs(cross).max(axis=0) * np.geomspace(1, ratio, count)[:, None])


def path(sums: Products, penalty: Array) -> Iterator[Array]:
    """Slopes at each penalty (count, c), each started from the one before; close enough to choose a penalty by."""
    slopes, gram, cross = None, sums.xx / sums.count, sums.xy / sums.count
    step = stride(gram)
    for each in penalty:
        slopes = lasso(gram, cross, each, slopes, CHOOSING, step)
        yield slopes


def ranges(models: int, folds: int) -> list[slice]:
    """Consecutive ranges of models of nearly equal length."""
    edges = np.linspace(0, models, folds + 1).round().astype(int).tolist()
    return [slice(low, high) for low, high in pairwise(edges)]


def cross_validated(sample: Sample, centre: Centres, sums: Products, folds: list[slice], penalty: Array) -> Array:
    """``(c,)`` the largest penalty whose error on left-out models is within one standard error of the least."""
    errors = np.empty((len(folds), *penalty.shape))
    for number, fold in enumerate(folds):
        left_out = products(sample, centre, fold)
        for place, slopes in enumerate(path(sums - left_out, penalty)):
            errors[number, place] = left_out.mean_square(slopes)
    mean, stderr = errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(len(folds))
    every = np.arange(penalty.shape[1])
    best = mean.argmin(axis=0)
    good = mean <= mean[best, every] + stderr[best, every]
    return np.asarray(penalty[good.argmax(axis=0), every])


def jackknife(
    sample: Sample, centre: Centres, sums: Products, slopes: Array, fit: Callable[[Products], Array], parts: int = PARTS
) -> Array:
    """Standard error of ``slopes`` by leaving out one range of models at a time; ``fit`` turns sums into slopes."""
    first, second = np.zeros_like(slopes), np.zeros_like(slopes)
    folds = ranges(len(sample), min(parts, len(sample)))
    for fold in folds:
        moved = fit(sums - products(sample, centre, fold)) - slopes
        first, second = first + moved, second + moved * moved
    count = len(folds)
    return np.asarray(np.sqrt(np.maximum(second - first * first / count, 0) * (count - 1) / count))


CONDITIONAL = "at the chosen penalty: the choice of the penalty and of the instances, and the shrinkage, are not in it"


def check_path(folds: int, path: int, path_ratio: float, models: int) -> None:
    """Refuse settings of the LASSO.

    Raises:
        ConfigError: naming the setting.
    """
    if folds < 2:
        raise ConfigError(f"estimator.folds must be at least 2, got {folds}; raise it")
    if models < 2 * folds:
        raise ConfigError(f"estimator.models={models} are too few for {folds} parts; raise it to {2 * folds} or more")
    if path < 2:
        raise ConfigError(f"estimator.path must be at least 2, got {path}; raise it")
    if not 0 < path_ratio < 1:
        raise ConfigError(f"estimator.path_ratio must be between 0 and 1, got {path_ratio}; change it")


def lasso_work(models: int, n: int, outcomes: int, folds: int, fits: int, groups: int = 1) -> Work:
    """Products over six passes, and fits of about 20 steps each, of a product and a dozen passes over the slopes."""
    return Work(
        numbers=fits * 20 * 12.0 * n * outcomes,
        flops=2 * (6 * 2.0 * models * n * (n + outcomes) + fits * 20 * 2.0 * n * n * outcomes),
        bytes=8.0 * (4.0 * n * n + (8.0 + 2.0 * groups) * n * outcomes),
        formula=f"{fits + folds} LASSO fits of {outcomes} outcomes on {n} instances",
    )
