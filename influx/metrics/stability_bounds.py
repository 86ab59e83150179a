"""How far a removal can move the risks of a strongly convex linear model: a bound that holds for every cell.

With μ = weight decay, F(θ) = (1/n) Σ ℓ_i(θ) + μ/2 |θ|² has its optimum at θ*, and F without instance i is
μ-strongly convex, so that its optimum lies within D_i = |∇F_{-i}(θ*)| / μ. There ∇F_{-i}(θ*) is -∇ℓ_i(θ*) / n when
i keeps its place (loss_norm=full) and -(∇ℓ_i(θ*) + μ θ*) / (n - 1) when the mean is over the others (subset). A
risk changes over that distance by at most |∇ℓ_j| D_i + s |x_j|² D_i² / 2, s being the largest curvature in the
output: 1 for half the squared error, 1/2 for softmax, whose gradient is nowhere above √2 |x_j|.
Source: Bousquet & Elisseeff 2002, theorem 22 (uniform stability L² R² / (2 λ n) with λ |θ|², so μ = 2 λ), with the
gradients at hand in place of their largest value L R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.metrics.statistics import FloatArray
from influx.problem import Outcomes, Split
from influx.run import Run

LINEAR = ("ridge", "logistic")  # names of the learners with a strongly convex objective


@dataclass(frozen=True)
class Stability:
    """``cells`` (n, m) bound on the absolute change of a test risk; ``uniform``, one bound for all pairs."""

    cells: FloatArray
    uniform: float


def stability(run: Run, subset: bool) -> Stability | str:
    """The bound for model=ridge and model=logistic, or why there is none. ``subset`` is the truth's loss_norm."""
    learner: Any = run.problem.learner
    if getattr(learner, "name", "") not in LINEAR:
        return "leave-one-out stability is for model=ridge and model=logistic"
    if not learner.weight_decay > 0:
        return "the objective is not strongly convex; set model.weight_decay above 0"
    if learner.intercept and not learner.penalise_intercept:
        return "without a penalty of the intercept nothing is strongly convex; set model.penalise_intercept=true"
    logistic, weight, n = learner.name == "logistic", float(learner.weight_decay), len(run.train)
    train, test = (run.outcomes(split) for split in (run.train, run.test))
    size, asked = (lengths(split, learner.intercept) for split in (run.train, run.test))
    slope, its = (steepness(outcomes, logistic) * x for outcomes, x in ((train, size), (test, asked)))
    moved = slope / (n * weight)
    if subset:
        nothing = math.log(run.problem.data.n_outputs) if logistic else float(np.square(run.train.y).mean()) / 2
        # F(θ*) <= F(0) bounds |θ*|, which is not at hand.
        pulled = math.sqrt(max(2 * weight * (nothing - float(train.loss.mean())), 0.0))
        moved = (slope + pulled) / ((n - 1) * weight)
    curved = 0.5 if logistic else 1.0
    cells = moved[:, None] * its + curved / 2 * np.square(moved[:, None] * asked)
    if logistic:
        cells = np.minimum(cells, math.sqrt(2) * asked * moved[:, None])
    if logistic and not subset:
        uniform = 2 * float(size.max() * max(size.max(), asked.max())) / (weight * n)
    else:
        uniform = float(cells.max())
    return Stability(cells=cells, uniform=uniform)


def lengths(split: Split, intercept: bool) -> FloatArray:
    """``(n,)`` Euclidean length of the inputs, the constant 1 of an intercept among them."""
    flat = np.asarray(split.x, dtype=np.float64).reshape(len(split), -1)
    return np.asarray(np.sqrt((flat * flat).sum(axis=1) + intercept))


def steepness(outcomes: Outcomes, logistic: bool) -> NDArray[np.float64]:
    """``(n,)`` bound on the length of a risk's derivative in the outputs.

    The residual of half the squared error is √(2 loss). That of softmax, p - e_y, is at most √2 (1 - p_y), and
    1 - p_y = 1 - exp(-loss).
    """
    loss = np.asarray(outcomes.loss, dtype=np.float64)
    return np.asarray(-math.sqrt(2) * np.expm1(-loss) if logistic else np.sqrt(2 * loss))
