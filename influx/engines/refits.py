"""Refits of a head on fixed features: settings that estimators share, the optimum, and how far to believe it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor

from influx.engines.head_solvers import STEP_DENSE, Report, newton_step
from influx.engines.heads import Objective, features_work, is_softmax, sizes
from influx.engines.representers import Bias, Surrogate, Targets, surrogate
from influx.engines.sparse_heads import Norm, fit
from influx.errors import ConfigError, NumericalError
from influx.planning import Prospect, Work
from influx.run import Run

AGREEING = 0.9  # share of test instances below which a refit is another model
FALL = 1e-4  # share of what the gradient promises by which the objective must fall
USUAL_STEPS = 12  # of Newton's method, for plans
USUAL_PROXIMAL = 2000  # of proximal steps, for plans


def refit(objective: Objective, tolerance: float, max_steps: int) -> tuple[Tensor, Tensor, int]:
    """Minimise by Newton's method from zero.

    A step is halved until the objective falls, down to a length at which it falls in any case: along a direction the
    logarithm of a softmax risk's second derivative changes no faster than the largest range of outputs (Sun and
    Tran-Dinh 2019).

    Returns:
        ``(C, q)`` weights, ``(C, q)`` gradient of the objective there, and the steps taken. When the largest entry of
        the gradient is within ``tolerance``, one more step uses up as little of it as rounding allows.
    """
    theta = objective.f.new_zeros(objective.shape)
    for step in range(max_steps + 1):
        outputs = objective.outputs(theta)
        gradient = objective.gradient(theta, outputs)
        size = float(gradient.abs().max())
        if step == max_steps and size > tolerance:
            break
        move = newton_step(objective, outputs, gradient)
        if size <= tolerance:
            closer = theta - move
            last = objective.gradient(closer, objective.outputs(closer))
            return (closer, last, step) if float(last.abs().max()) <= size else (theta, gradient, step)
        theta = theta - _length(objective, theta, outputs, move, float((gradient * move).sum())) * move
    return theta, gradient, max_steps


def _length(objective: Objective, theta: Tensor, outputs: Tensor, move: Tensor, slope: float) -> float:
    """How much of a Newton step to take; ``slope`` is its product with the gradient."""
    moved = objective.outputs(move)
    span = float((moved.amax(1) - moved.amin(1)).max()) if is_softmax(objective.task) else 0.0
    sure = float(np.log1p(span)) / span if span > 1 else 1.0

    def value(length: float) -> float:
        penalty = float((objective.penalty * (theta - length * move).square()).sum())
        return objective.risk(outputs - length * moved) + 0.5 * penalty

    length, before = 1.0, value(0.0) if sure < 1 else 0.0
    while length > sure and not value(length) < before - FALL * length * slope:
        length /= 2
    return max(length, sure)


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """Settings of estimators that refit the head with a squared penalty, and the refit."""

    penalty: float = 6e-3
    targets: Targets = "labels"
    bias: Bias = "augment"
    tolerance: float = 1e-8
    max_steps: int = 100
    allow_nonstationary: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 < self.penalty < float("inf"):
            raise ConfigError(
                f"estimator.penalty must be positive and finite, got {self.penalty}: without a penalty the weights are "
                "no sum over training instances; set for example estimator.penalty=0.006"
            )
        check_solver(self.tolerance, self.max_steps, Refitted)

    def plan(self, prospect: Prospect) -> Work:
        """Features, a few Newton steps and one product of features."""
        n, m, c, q = sizes(prospect)
        step = 6.0 * n * c * q
        step += n * c * (c + 1) * q**2 + (c * q) ** 3 / 3 if c * q <= STEP_DENSE else 40 * 4.0 * n * c * q
        return features_work(prospect) + Work(
            flops=2 * (USUAL_STEPS * step + 2.0 * n * m * q),
            numbers=6.0 * n * m,
            bytes=8.0 * (n * m + 2 * (n + m) * q + 3 * n * c),
            formula=f"about {USUAL_STEPS} Newton steps for {c} x {q} weights, {n} x {m} products of {q} features",
        )

    def refitted(self, run: Run) -> tuple[Surrogate, Report]:
        """The refitted head and a report; warns where it is doubtful.

        Raises:
            NumericalError: the refit did not converge and ``allow_nonstationary`` is false.
        """
        start = surrogate(run, self.targets, self.bias, self.penalty)
        theta, gradient, steps = refit(start.objective, self.tolerance, self.max_steps)
        fitted = replace(start, theta=theta)
        size = float(gradient.abs().max())
        missing = fitted.explained()[1].of(fitted.g @ gradient[:, : fitted.decomposed].T).abs() / self.penalty
        off = float(missing.max())
        if size > self.tolerance:
            state = (
                f"the refitted head should reach a largest gradient entry of {self.tolerance:g}, after {steps} Newton "
                f"steps it is {size:.2g}, which leaves up to {off:.2g} of an explained value unexplained"
            )
            if not self.allow_nonstationary:
                raise NumericalError(
                    f"{state}; set estimator.max_steps={max(2 * steps, 100)}, or estimator.allow_nonstationary=true to "
                    "go on"
                )
            run.warn(state)
        report: Report = {
            "penalty": self.penalty,
            "gradient_max": size,
            "newton_steps": steps,
            "explained_error_bar": off,
        }
        return fitted, report | judged(run, fitted)


@dataclass(frozen=True, kw_only=True)
class Regularised:
    """Settings of estimators that refit the head with a norm that leaves few weights or a low rank, and the refit."""

    penalty: float | None = None
    penalty_share: float = 0.1
    targets: Targets = "labels"
    bias: Literal["augment", "none"] = "augment"
    tolerance: float = 1e-10
    max_steps: int = 50000

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.penalty is not None and not 0 < self.penalty < float("inf"):
            raise ConfigError(
                f"estimator.penalty must be positive and finite, got {self.penalty}: without a penalty the weights are "
                "no sum over training instances; use null for estimator.penalty_share of the largest useful one"
            )
        if not 0 < self.penalty_share < 1:
            raise ConfigError(f"estimator.penalty_share must be between 0 and 1, got {self.penalty_share}; try 0.1")
        check_solver(self.tolerance, self.max_steps, Regularised)

    def plan(self, prospect: Prospect) -> Work:
        """Features, some proximal steps, a few Newton steps and one product of features."""
        n, m, c, q = sizes(prospect)
        return features_work(prospect) + Work(
            flops=2 * (USUAL_PROXIMAL * 4.0 * n * c * q + 4.0 * n * m * q),
            numbers=USUAL_PROXIMAL * 6.0 * n * c + 6.0 * n * m,
            bytes=8.0 * (n * m + 2 * (n + m) * q + 4 * n * c),
            formula=f"about {USUAL_PROXIMAL} passes for {c} x {q} weights, {n} x {m} products of {q} features",
        )

    def regularised(self, run: Run, norm: Norm) -> tuple[Surrogate, float, Report]:
        """The refitted head, λ, and a report.

        Raises:
            ConfigError: all weights are zero at that λ.
            NumericalError: the refit did not converge.
        """
        start = surrogate(run, self.targets, self.bias, 0.0)
        made = fit(start.objective, norm, self.penalty, self.penalty_share, self.tolerance, self.max_steps)
        fitted = replace(start, theta=made.theta)
        report: Report = {
            "penalty": made.penalty,
            "penalty_max": made.largest,
            "residual": made.residual,
            "steps": made.steps,
        }
        return fitted, made.penalty, report | judged(run, fitted)


def check_solver(tolerance: float, max_steps: int, usual: type[Refitted | Regularised]) -> None:
    """Check ranges of a refit's settings, whose defaults are those of ``usual``.

    Raises:
        ConfigError: one is out of range.
    """
    if not tolerance > 0:
        raise ConfigError(f"estimator.tolerance must be positive, got {tolerance}; {usual.tolerance:g} is the default")
    if max_steps < 1:
        raise ConfigError(f"estimator.max_steps must be at least 1, got {max_steps}; {usual.max_steps} is the default")


def judged(run: Run, fitted: Surrogate) -> dict[str, float]:
    """``likeness``, with a warning where the refit is another model than the trained one."""
    found = fitted.likeness()
    share = found.get("same_prediction", 1.0)
    if share < AGREEING:
        run.warn(
            f"the refitted head predicts the trained model's class for only {share:.0%} of the test instances, so that "
            "another model is explained; change estimator.penalty or estimator.targets"
        )
    elif found.get("mean_output_change", 0.0) > found.get("output_spread", 0.0) / 2:
        run.warn(
            f"the refitted head's outputs differ from the trained model's by {found['mean_output_change']:.2g} on "
            f"average, which spread by {found['output_spread']:.2g}; change estimator.penalty or estimator.targets"
        )
    return found
