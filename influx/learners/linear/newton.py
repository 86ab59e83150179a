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
OWNED = 1200  # parameters up to which a model may have a preconditioner of its own
WORTH = 30  # parameters for which making one takes as long as an iteration
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
    inner = None if system.size <= DENSE else _Inner(system, start, len(v))
    for _ in range(max_steps + 1):
        interrupts.check_forced()
        means = system.means(outputs)
        gradient = system.gradient(v, means, theta)
        done = gradient.flatten(1).norm(dim=1) <= tolerance
        if done.any():
            last = theta[done], outputs[done]
            if factor is not None or inner is not None:  # one more step, so that little of the tolerance is used
                held = factor[done] if factor is not None else None
                step = _direction(v[done], means[done], gradient[done], rows[done], held, inner)
                last = last[0] - step, last[1] - step @ system.x.T
            found[rows[done]], fitted[rows[done]] = last
            if done.all():
                return found, fitted
            if inner is not None:
                inner.forget(rows[done])
            left = ~done
            rows, v, theta, outputs = rows[left], v[left], theta[left], outputs[left]
            means, gradient = means[left], gradient[left]
        factor = cholesky(system.hessian(v, means)) if inner is None else None
        step = _direction(v, means, gradient, rows, factor, inner)
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
    v: Tensor, means: Tensor, gradient: Tensor, rows: Tensor, factor: Tensor | None, inner: _Inner | None
) -> Tensor:
    if factor is not None:
        return solve(factor, gradient)
    assert inner is not None
    return inner.direction(v, means, gradient, rows)


def _at(system: System, start: Tensor) -> Tensor:
    """Factor of the Hessian of all instances at ``start``, which many calls share."""
    known = system.__dict__.get("_factor")
    if known is None or known[0] is not start:
        even = torch.full((1, len(system.x)), 1 / len(system.x), dtype=start.dtype)
        known = start, cholesky(system.hessian(even, system.means((start @ system.x.T)[None])))
        system.__dict__["_factor"] = known
    factor: Tensor = known[1]
    return factor


class _Inner:
    """Conjugate gradients for the Newton step, preconditioned by one Hessian for all models.

    A model that is far from the start gets a Hessian of its own, in single precision: it changes how many iterations
    are needed, not where they lead. It is made when as many iterations were spent as it is worth, and made anew when
    as many were spent again.
    """

    def __init__(self, system: System, start: Tensor, models: int) -> None:
        self.system, self.factor = system, None
        self.own: dict[int, Tensor] = {}
        self.spent = torch.zeros(models)  # iterations since the preconditioner of each was made
        inverse = torch.eye(len(start), dtype=start.dtype) + 1  # of the coupling
        if start.any() and system.size <= FACTORISED:
            self.factor = _at(system, start)
            return
        self.inverse = inverse  # the Hessian at 0 is the coupling ⊗ (xᵀx / (n classes) + penalty)
        gram = system.x.T @ system.x / (len(system.x) * (len(start) + 1)) + torch.diag(system.penalty)
        self.gram = cholesky(gram[None])[0]

    def precondition(self, residual: Tensor, rows: list[int]) -> Tensor:
        """The inverse of the Hessian of each of ``rows``, or of the common one, times ``residual``."""
        mine = [k for k, row in enumerate(rows) if row in self.own]
        found = self._common(residual) if len(mine) < len(rows) else torch.empty_like(residual)
        for k in mine:
            solved = torch.cholesky_solve(residual[k].flatten()[:, None].float(), self.own[rows[k]])
            found[k] = solved.view_as(residual[k])
        return found

    def _common(self, residual: Tensor) -> Tensor:
        if self.factor is not None:
            return torch.cholesky_solve(residual.flatten(1).T, self.factor[0]).T.view_as(residual)
        models, outputs, inputs = residual.shape
        solved = torch.cholesky_solve(residual.reshape(-1, inputs).T, self.gram).T.view(models, outputs, inputs)
        return self.inverse @ solved

    def _renew(self, v: Tensor, means: Tensor, rows: list[int]) -> None:
        """Preconditioners for those that have spent enough iterations."""
        for k, row in enumerate(rows):
            if self.system.size <= OWNED and self.spent[row] >= self.system.size / WORTH:
                factor, failed = torch.linalg.cholesky_ex(self.system.single_hessian(v[k], means[k]))
                self.spent[row] = 0
                if not failed:
                    self.own[row] = factor

    def forget(self, rows: Tensor) -> None:
        """Free what solved models have."""
        for row in rows.tolist():
            self.own.pop(row, None)

    def direction(self, v: Tensor, means: Tensor, gradient: Tensor, numbers: Tensor) -> Tensor:
        """The Newton step of models ``numbers``, to a tenth, and closer as the gradient vanishes."""
        rows = numbers.tolist()
        self._renew(v, means, rows)
        found, residual = torch.zeros_like(gradient), gradient.clone()
        norm = gradient.flatten(1).norm(dim=1)
        goal = norm * norm.sqrt().clamp(1e-3, 0.1)
        conjugate = ahead = self.precondition(residual, rows)
        energy = (residual * ahead).sum((1, 2))
        for _ in range(CG_STEPS):
            going = residual.flatten(1).norm(dim=1) > goal
            if not going.any():
                break
            interrupts.check_forced()
            self.spent[numbers] += going
            curved = self.system.curved(v, means, conjugate)
            length = torch.where(going, energy / (conjugate * curved).sum((1, 2)), 0.0)[:, None, None]
            found += length * conjugate
            residual -= length * curved
            ahead = self.precondition(residual, rows)
            before, energy = energy, (residual * ahead).sum((1, 2))
            conjugate = ahead + (energy / before)[:, None, None] * conjugate
        return found
