"""Newton's method for many softmax regressions at once, each with instance weights of its own.

A step is shortened by the bound that logistic losses obey: along a direction the logarithm of the second derivative
changes no faster than the largest range of logits, so that the objective falls without being evaluated (Bach 2010;
Sun & Tran-Dinh 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor

from influx import interrupts
from influx.errors import NumericalError
from influx.learners.linear.system import System

DENSE = 320  # parameters up to which Hessians are factorised model by model
FACTORISED = 2500  # parameters up to which the start's Hessian is factorised as a preconditioner
CG_STEPS = 400
SINGULAR = 1e-13  # pivot relative to the diagonal that counts as zero


def minimise(system: System, v: Tensor, start: Tensor, tolerance: float, max_steps: int) -> tuple[Tensor, Tensor]:
    """Parameters ``(models, K, q)`` and outputs ``(models, K, n)`` at the optimum of every weighting ``v``.

    Raises:
        NumericalError: a Hessian is singular, or ``max_steps`` were not enough.
    """
    theta = start.expand(len(v), -1, -1).clone()
    outputs = theta @ system.x.T
    found, fitted = torch.empty_like(theta), torch.empty_like(outputs)
    rows, factor = torch.arange(len(v)), None
    inner = None if system.size <= DENSE else _Inner(system, start)
    for _ in range(max_steps + 1):
        interrupts.check_forced()
        means = system.means(outputs)
        gradient = system.gradient(v, means, theta)
        done = gradient.flatten(1).norm(dim=1) <= tolerance
        if done.any():
            last = theta[done], outputs[done]
            if factor is not None or inner is not None:  # one more step, so that little of the tolerance is used
                held = factor[done] if factor is not None else None
                step = _direction(system, v[done], means[done], gradient[done], held, inner)
                last = last[0] - step, last[1] - step @ system.x.T
            found[rows[done]], fitted[rows[done]] = last
            if done.all():
                return found, fitted
            left = ~done
            rows, v, theta, outputs = rows[left], v[left], theta[left], outputs[left]
            means, gradient = means[left], gradient[left]
        factor = cholesky(system.hessian(v, means)) if inner is None else None
        step = _direction(system, v, means, gradient, factor, inner)
        moved = step @ system.x.T
        share = _share(moved)
        theta -= share * step
        outputs -= share * moved
    worst = float(gradient.flatten(1).norm(dim=1).max())
    raise NumericalError(
        f"Newton's method should reach a gradient of {tolerance:g} in {max_steps} steps, {len(rows)} models are left "
        f"at up to {worst:.2g}; raise model.weight_decay or model.max_steps"
    )


def cholesky(matrices: Tensor) -> Tensor:
    """Lower factors of positive definite matrices.

    Raises:
        NumericalError: one is singular to rounding.
    """
    made: tuple[Tensor, Tensor] = torch.linalg.cholesky_ex(matrices)
    factor, failed = made
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    if failed.any() or (pivots <= SINGULAR * matrices.diagonal(dim1=-2, dim2=-1)).any():
        raise NumericalError(
            "a linear model needs a unique optimum, and the system of its equations is singular (more inputs than "
            "instances, or inputs that repeat each other); set model.weight_decay above 0, for example 0.01"
        )
    return factor


def solve(factor: Tensor, right: Tensor) -> Tensor:
    """Solutions shaped as ``right`` (models, K, q) of systems with lower factors (models, K q, K q)."""
    return torch.cholesky_solve(right.flatten(1)[..., None], factor).view_as(right)


def _share(moved: Tensor) -> Tensor:
    """``(models, 1, 1)`` share of the Newton step under which the objective falls; 1 near the optimum."""
    span = moved.amax(1).clamp(min=0) - moved.amin(1).clamp(max=0)
    largest = span.amax(1)
    return torch.where(largest <= 1, torch.ones_like(largest), torch.log1p(largest) / largest)[:, None, None]


def _direction(
    system: System, v: Tensor, means: Tensor, gradient: Tensor, factor: Tensor | None, inner: _Inner | None
) -> Tensor:
    if factor is not None:
        return solve(factor, gradient)
    assert inner is not None
    return inner.direction(v, means, gradient)


class _Inner:
    """Conjugate gradients for the Newton step, preconditioned by one Hessian for all models."""

    def __init__(self, system: System, start: Tensor) -> None:
        self.system, self.factor = system, None
        inverse = torch.eye(len(start), dtype=start.dtype) + 1  # of the coupling
        if start.any() and system.size <= FACTORISED:
            even = torch.full((1, len(system.x)), 1 / len(system.x), dtype=start.dtype)
            self.factor = cholesky(system.hessian(even, system.means((start @ system.x.T)[None])))
            return
        self.inverse = inverse  # the Hessian at 0 is the coupling ⊗ (xᵀx / (n classes) + penalty)
        gram = system.x.T @ system.x / (len(system.x) * (len(start) + 1)) + torch.diag(system.penalty)
        self.gram = cholesky(gram[None])[0]

    def precondition(self, residual: Tensor) -> Tensor:
        """The inverse of the common Hessian times ``residual``."""
        if self.factor is not None:
            return torch.cholesky_solve(residual.flatten(1).T, self.factor[0]).T.view_as(residual)
        models, outputs, inputs = residual.shape
        solved = torch.cholesky_solve(residual.reshape(-1, inputs).T, self.gram).T.view(models, outputs, inputs)
        return self.inverse @ solved

    def direction(self, v: Tensor, means: Tensor, gradient: Tensor) -> Tensor:
        """The Newton step to a tenth, and closer as the gradient vanishes."""
        found, residual = torch.zeros_like(gradient), gradient.clone()
        norm = gradient.flatten(1).norm(dim=1)
        goal = norm * norm.sqrt().clamp(1e-3, 0.1)
        conjugate = ahead = self.precondition(residual)
        energy = (residual * ahead).sum((1, 2))
        for _ in range(CG_STEPS):
            going = residual.flatten(1).norm(dim=1) > goal
            if not going.any():
                break
            interrupts.check_forced()
            curved = self.system.curved(v, means, conjugate)
            length = torch.where(going, energy / (conjugate * curved).sum((1, 2)), 0.0)[:, None, None]
            found += length * conjugate
            residual -= length * curved
            ahead = self.precondition(residual)
            before, energy = energy, (residual * ahead).sum((1, 2))
            conjugate = ahead + (energy / before)[:, None, None] * conjugate
        return found
