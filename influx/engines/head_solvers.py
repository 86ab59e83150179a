"""Solving with the curvature of a head: by its Cholesky factor, or by conjugate gradients where it is too large."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from influx import interrupts
from influx.engines.heads import HELD_BYTES, Objective, features_work, is_softmax, sizes
from influx.engines.inverses import Inverse
from influx.engines.operators import Operator
from influx.engines.solvers.cg import BlockCG
from influx.errors import NumericalError
from influx.planning import Prospect, Work

Report = dict[str, float | str]
DENSE = 8000  # parameters of the head up to which its curvature is written out
STEP_DENSE = 1024  # the same inside Newton's method, which needs it at every step
CG_STEPS = 5000
CG_TOLERANCE = 1e-8  # relative residual; rounding leaves about 1e-16 times the condition
USUAL_CG = 200  # steps of it, for plans
SINGULAR = 1e-12  # eigenvalue relative to the largest that counts as zero
RIGHT_BYTES = 256 << 20  # gradients of one block of instances on themselves


def solving_work(prospect: Prospect, own: int) -> Work:
    """Predicted work of features, a solve for every test instance and one product with every training gradient.

    ``own`` is how many solves of every training instance, by the factor, its influence on itself takes.
    """
    n, m, c, q = sizes(prospect)
    s = c * q
    if s <= DENSE:
        solve = 1.0 * n * c * (c + 1) * q**2 + 2.0 * s**3 + 2.0 * m * s**2 + 1.0 * own * n * s**2
        numbers, held = 0.0, 3.0 * s**2
    else:
        solve, numbers, held = 4.0 * USUAL_CG * m * n * s, 3.0 * USUAL_CG * m * n * c, 0.0
    return features_work(prospect) + Work(
        flops=2 * (solve + 2.0 * n * m * s),
        numbers=numbers,
        bytes=8.0 * (n * m + (n + m) * q + held) + min(64.0 * m * s, HELD_BYTES),
        formula=f"curvature of {s} weights, {n} x {m} products of {s} numbers",
    )


class Solver(Protocol):
    """(H + δI)⁻¹; ``report`` says how far to believe it."""

    @property
    def report(self) -> Report:
        """Damping, eigenvalues, and what the last ``solve`` left."""
        ...

    def solve(self, right: Tensor) -> Tensor:
        """``(k, C, q)`` solutions for right-hand sides of that shape."""
        ...

    def own(self, left: Tensor, right: Tensor, f: Tensor) -> Tensor | None:
        """``(n,)`` values (l_i ⊗ f_i)ᵀ (H + δI)⁻¹ (r_i ⊗ f_i) for rows (n, C), (n, C), (n, q); None if too much."""
        ...


def solver(objective: Objective, outputs: Tensor, damping: float | None, share: float) -> Solver:
    """A solver for the curvature at some outputs.

    Args:
        objective: whose curvature, its penalty included.
        outputs: ``(n, C)`` where.
        damping: δ; None takes ``share`` of the mean eigenvalue.
        share: see ``damping``.

    Raises:
        NumericalError: H + δI is singular; names a damping that is enough.
    """
    mean = objective.mean_eigenvalue(outputs)
    chosen = share * mean if damping is None else damping
    c, q = objective.shape
    report: Report = {"damping": chosen, "mean_eigenvalue": mean}
    # features that all vanish have no curvature, and no damping is a share of it
    unknown = bool((objective.penalty == 0).any()) and is_softmax(objective.task)
    if chosen == 0 and (unknown or mean == 0):
        raise _singular(0.0, chosen, mean, softmax=unknown, automatic=damping is not None and mean > 0)
    if c * q > DENSE:
        return Iterative(objective, outputs, chosen, report | {"solver": "conjugate gradients"})
    h = objective.matrix(outputs)
    eigenvalues = torch.linalg.eigvalsh(h)
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    if smallest + chosen <= SINGULAR * largest:
        raise _singular(smallest + chosen, chosen, mean, softmax=False, automatic=damping is not None)
    report |= {"solver": "cholesky", "lambda_min": smallest, "lambda_max": largest}
    kept = eigenvalues.clamp_min(0)
    report["effective_dimension"] = float((kept / (kept + chosen).clamp_min(1e-300)).sum())
    h.diagonal().add_(chosen)
    return Dense(h, torch.linalg.cholesky(h), report)


def _singular(smallest: float, damping: float, mean: float, softmax: bool, automatic: bool) -> NumericalError:
    """``automatic`` says whether the automatic damping would be another one."""
    enough = max(1e-3 * mean, 1e-6)
    why = " (softmax outputs that all grow alike change nothing, and nothing decays them)" if softmax else ""
    return NumericalError(
        f"the last layer's curvature plus estimator.damping={damping:.3g} must be positive definite, its smallest "
        f"eigenvalue is {smallest:.3g}{why}; set estimator.damping={enough:.2g}{' or null' if automatic else ''}"
    )


@dataclass(frozen=True)
class Dense:
    """By the Cholesky factor of the curvature written out."""

    matrix: Tensor
    factor: Tensor
    report: Report = field(default_factory=dict)

    def solve(self, right: Tensor) -> Tensor:
        """Solutions; notes the largest relative residual of all so far."""
        rhs = right.flatten(1)
        x: Tensor = torch.cholesky_solve(rhs.T, self.factor).T
        left = (x @ self.matrix - rhs).norm(dim=1) / rhs.norm(dim=1).clamp_min(1e-300)
        self.report["residual"] = max(float(self.report.get("residual", 0.0)), float(left.max()))
        return x.reshape(right.shape)

    def own(self, left: Tensor, right: Tensor, f: Tensor) -> Tensor | None:
        """Two triangular solves per block of instances, or one where both sides are the same."""
        size = max(1, RIGHT_BYTES // (32 * len(self.matrix)))
        found = []
        for r, s, block in zip(left.split(size), right.split(size), f.split(size), strict=True):
            rows = [(side[:, :, None] * block[:, None]).flatten(1).T for side in ((r,) if left is right else (r, s))]
            halves = [torch.linalg.solve_triangular(self.factor, row, upper=False) for row in rows]
            found.append((halves[0] * halves[-1]).sum(0))
        return torch.cat(found)


@dataclass(frozen=True)
class Iterative:
    """By block conjugate gradients; vectors are (C, q) matrices written as rows."""

    objective: Objective
    outputs: Tensor
    damping: float
    report: Report = field(default_factory=dict)
    kind: Literal["ggn"] = "ggn"

    @property
    def size(self) -> int:
        """C q."""
        return self.decay.numel()

    @property
    def decay(self) -> Tensor:
        """``(C q,)`` penalty of every weight."""
        return self.objective.penalty.repeat(self.objective.shape[0])

    def product(self, v: Tensor) -> Tensor:
        """(H + δI) v for ``(k, C q)``."""
        return self.objective.product(self.outputs, v.view(-1, *self.objective.shape)).flatten(1) + self.damping * v

    @cached_property
    def _block(self) -> BlockCG:
        remedy = f"raise estimator.damping, for example to {10 * max(self.damping, 1e-6):.2g}"
        before = Kronecker.of(self.objective, self.outputs, self.damping)
        # they use of an operator and of an inverse only what these two have
        operator, inverse = cast(Operator, self), cast(Inverse, before)
        return BlockCG(operator, CG_TOLERANCE, CG_STEPS, inverse, self.report, remedy)

    def solve(self, right: Tensor) -> Tensor:
        """Solutions, some right-hand sides at a time.

        Raises:
            NumericalError: they do not converge.
        """
        return self._block.solve(right.flatten(1)).view_as(right)

    def own(self, left: Tensor, right: Tensor, f: Tensor) -> Tensor | None:
        """None: one solve for every training instance would be needed."""
        return None


@dataclass(frozen=True)
class Kronecker:
    """The inverse of Λ̄ ⊗ (FᵀF/n) + s, near to the curvature: Λ̄ is the mean of the Λ, s the mean penalty and δ."""

    outputs: Tensor  # eigenvectors of Λ̄
    inputs: Tensor  # and of FᵀF/n
    inverse: Tensor  # (C, q) in their basis

    @classmethod
    def of(cls, objective: Objective, outputs: Tensor, damping: float) -> Kronecker:
        """Two small eigenvalue problems."""
        c = objective.shape[0]
        eye = torch.eye(c, dtype=outputs.dtype, device=outputs.device)
        rows = [objective.task.curved(outputs, eye[a].expand_as(outputs)).mean(0) for a in range(c)]
        left, q_left = torch.linalg.eigh(torch.stack(rows))
        right, q_right = torch.linalg.eigh(objective.f.T @ objective.f / len(objective.f))
        both = left.clamp_min(0)[:, None] * right.clamp_min(0)
        shift = float(objective.penalty.mean()) + damping
        floor = 1e-10 * float(both.max()) + 1e-300
        return cls(q_left, q_right, 1 / (both + shift + floor))

    def __call__(self, v: Tensor) -> Tensor:
        """Times ``v`` (k, C, q)."""
        return self.outputs @ (self.inverse * (self.outputs.T @ v @ self.inputs)) @ self.inputs.T

    def solve(self, rhs: Tensor) -> Tensor:
        """The same for rows ``(k, C q)``."""
        return self(rhs.view(-1, *self.inverse.shape)).flatten(1)


class Product(Protocol):
    """A symmetric positive semi-definite matrix times ``(k, ...)`` vectors."""

    def __call__(self, v: Tensor) -> Tensor:
        """The products, shaped as ``v``."""
        ...


def conjugate_gradients(
    product: Product, right: Tensor, precondition: Product, tolerance: float, steps: int
) -> tuple[Tensor, int]:
    """Solutions for ``k`` right-hand sides (k, ...) that do not see each other, and the steps that the last one took.

    Each stops at ``tolerance`` times the norm of its right-hand side, or where no positive curvature is left.
    """
    axes = tuple(range(1, right.ndim))

    def per(scalar: Tensor) -> Tensor:
        return scalar.view(-1, *[1] * len(axes))

    x, residual = torch.zeros_like(right), right.clone()
    goal = tolerance * right.square().sum(axes).sqrt()
    ahead = precondition(residual)
    direction, energy = ahead.clone(), (residual * ahead).sum(axes)
    for step in range(steps):
        going = residual.square().sum(axes).sqrt() > goal
        if not going.any():
            return x, step
        interrupts.check_forced()
        curved = product(direction)
        along = (direction * curved).sum(axes)
        going &= along > 0
        length = torch.where(going, energy / torch.where(going, along, 1.0), 0.0)
        x += per(length) * direction
        residual -= per(length) * curved
        ahead = precondition(residual)
        before, energy = energy, (residual * ahead).sum(axes)
        direction = ahead + per(energy / torch.where(before > 0, before, 1.0)) * direction
        if not going.any():
            return x, step
    return x, steps


def newton_step(objective: Objective, outputs: Tensor, gradient: Tensor) -> Tensor:
    """``(C, q)`` the curvature's inverse times the gradient; to a relative 1e-3 or better where it is large.

    Raises:
        NumericalError: the curvature is singular.
    """
    c, q = objective.shape
    if c * q > STEP_DENSE:
        size = float(gradient.norm())
        close = min(1e-2, size**0.5) * 0.1

        def product(v: Tensor) -> Tensor:
            return objective.product(outputs, v)

        precondition = Kronecker.of(objective, outputs, 0.0)
        return conjugate_gradients(product, gradient[None], precondition, close, CG_STEPS)[0][0]
    factor, failed = torch.linalg.cholesky_ex(objective.matrix(outputs))
    if int(failed):
        # no eigenvalue is above the mean of |f|²
        enough = max(100 * float(objective.penalty.max()), 1e-12 * float(objective.f.square().sum(1).mean()))
        raise NumericalError(
            "the refit of the head must have a positive definite curvature, and it is singular to rounding; set "
            f"estimator.penalty={enough:.2g}"
        )
    return torch.cholesky_solve(gradient.reshape(-1, 1), factor).view(c, q)
