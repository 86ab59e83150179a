"""Heads with few weights or low rank: (1/n) Σ_i ℓ(Θ f_i, t_i) + λ r(Θ) with the l1 or the nuclear norm for r.

Accelerated proximal gradient steps (Beck & Teboulle 2009, restarted as by O'Donoghue & Candès 2015) find which weights,
or which rank, are left; Newton's method on those then reaches the optimum to rounding. Everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from influx import interrupts
from influx.engines.head_solvers import conjugate_gradients
from influx.engines.heads import Objective, is_softmax
from influx.errors import ConfigError, IncompatibleError, NumericalError

FIRST_STEPS = 200  # proximal steps before the first try to finish by Newton's method; doubled each time
NEWTON_STEPS = 50
SUPPORT = 4000  # weights up to which Newton's method writes out their curvature
RANK = 1e-9  # singular value relative to the largest that counts as zero
JITTER = 1e-12  # of the mean eigenvalue, on curvature that may be singular


class Norm(Protocol):
    """The regulariser r, by what the solver needs of it."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def dual(self, gradient: Tensor) -> float:
        """The dual norm: with a mean gradient at zero, the smallest λ for which all weights are zero."""
        ...

    def proximal(self, theta: Tensor, length: float) -> Tensor:
        """argmin_x ½ |x - θ|² + length · r(x)."""
        ...

    def residual(self, theta: Tensor, dual: Tensor) -> float:
        """How far ``dual``, minus the mean gradient over λ, is from the subdifferential of r at ``theta``."""
        ...

    def polish(self, objective: Objective, theta: Tensor, penalty: float) -> Tensor:
        """Newton's method on the weights, or the rank, that ``theta`` has left."""
        ...

    def centred(self, theta: Tensor) -> Tensor:
        """Of the weights that differ by what softmax does not see, and not in norm, the ones to take."""
        ...


@dataclass(frozen=True)
class Sparse:
    """A fitted head and how well it satisfies the conditions of an optimum."""

    theta: Tensor
    penalty: float
    largest: float  # λ from which on all weights are zero
    residual: float
    steps: int


def fit(
    objective: Objective, norm: Norm, penalty: float | None, share: float, tolerance: float, max_steps: int
) -> Sparse:
    """Minimise from zero.

    Softmax risks do not change when a feature's weights all grow alike. With an even number of classes the l1 norm may
    not change either, so that its optimum is not unique; the one returned has the midpoint of every feature's two
    middle weights at 0, whatever the start and the order of the instances. Features that depend linearly on each other
    may leave other ties, which stay as they are found.

    Args:
        objective: the mean risk; its own penalty is zero.
        norm: the regulariser.
        penalty: λ; None takes ``share`` of the smallest λ for which all weights are zero.
        share: see ``penalty``.
        tolerance: residual of the optimum's conditions, in units of λ.
        max_steps: most proximal steps.

    Raises:
        ConfigError: all weights are zero at that λ.
        IncompatibleError: they are at any λ.
        NumericalError: ``max_steps`` were not enough.
    """
    theta = objective.f.new_zeros(objective.shape)
    largest = norm.dual(objective.mean_gradient(objective.outputs(theta)))
    if largest == 0:
        raise IncompatibleError(
            "the last layer's features must tell something about the targets to refit it, the risk has no slope at "
            "zero weights (are all features or all targets zero?); choose another dataset or model"
        )
    chosen = share * largest if penalty is None else penalty
    if chosen >= largest:
        raise ConfigError(
            f"estimator.penalty must be below {largest:.4g}, from where on all weights of the last layer are zero and "
            f"there is nothing to explain, got {chosen:.4g}; set for example estimator.penalty={0.1 * largest:.2g}"
        )
    softmax = is_softmax(objective.task)
    bound = (0.5 if softmax else 1.0) * float(torch.linalg.eigvalsh(objective.f.T @ objective.f / len(objective.f))[-1])
    done, steps = 0, FIRST_STEPS
    while True:
        steps = min(steps, max_steps - done)
        theta = _accelerated(objective, norm, theta, chosen, bound, steps)
        done, steps = done + steps, 2 * steps
        candidates = [norm.polish(objective, theta, chosen), theta]
        if softmax:
            candidates = [norm.centred(x) for x in candidates]
        found = [norm.residual(x, -objective.mean_gradient(objective.outputs(x)) / chosen) for x in candidates]
        best = min((0, 1), key=found.__getitem__)
        if found[best] <= tolerance:
            return Sparse(candidates[best], chosen, largest, found[best], done)
        if done >= max_steps:
            easier = min(max(100 * chosen, 0.1 * largest), (chosen + largest) / 2)
            raise NumericalError(
                f"the refit with a {norm.name} norm should reach a residual of {tolerance:g}, after {done} steps it is "
                f"{found[best]:.2g}; raise estimator.max_steps, for example to {4 * max_steps}, or set "
                f"estimator.penalty={easier:.2g}"
            )


def _accelerated(objective: Objective, norm: Norm, theta: Tensor, penalty: float, bound: float, steps: int) -> Tensor:
    """Proximal gradient steps of length 1 / ``bound`` with momentum, which starts anew where it points uphill."""
    ahead, momentum = theta, 1.0
    for _ in range(steps):
        interrupts.check_forced()
        gradient = objective.mean_gradient(objective.outputs(ahead))
        new = norm.proximal(ahead - gradient / bound, penalty / bound)
        change = new - theta
        if float(((ahead - new) * change).sum()) > 0:
            momentum = 1.0
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / grown * change
        theta, momentum = new, grown
    return theta


@dataclass(frozen=True)
class L1:
    """Σ |Θ_cd|."""

    name: str = "l1"

    def dual(self, gradient: Tensor) -> float:
        """Largest entry."""
        return float(gradient.abs().max())

    def proximal(self, theta: Tensor, length: float) -> Tensor:
        """Entries moved towards zero by ``length``."""
        return theta.sign() * (theta.abs() - length).clamp_min(0)

    def residual(self, theta: Tensor, dual: Tensor) -> float:
        """``dual`` must be the sign where a weight is left, and within 1 elsewhere."""
        inside = (dual - theta.sign()).abs()
        return float(torch.where(theta != 0, inside, (dual.abs() - 1).clamp_min(0)).max())

    def polish(self, objective: Objective, theta: Tensor, penalty: float) -> Tensor:
        """Newton's method with fixed signs; a weight that would change its sign becomes zero and stays so."""
        theta = theta.clone()
        for _ in range(NEWTON_STEPS):
            kept = theta != 0
            if not 0 < int(kept.sum()) <= SUPPORT:
                return theta
            outputs = objective.outputs(theta)
            slope = (objective.mean_gradient(outputs) + penalty * theta.sign())[kept]
            step = torch.zeros_like(theta)
            step[kept] = _solve(_restricted(objective, outputs, kept), slope)
            moved = objective.outputs(step)
            span = float((moved.amax(1) - moved.amin(1)).max()) if is_softmax(objective.task) else 0.0
            length = float(torch.log1p(torch.tensor(span))) / span if span > 1 else 1.0
            crossing = torch.where(theta * step > 0, theta / torch.where(step == 0, 1.0, step), torch.inf)
            first = float(crossing.min())
            new = theta - min(length, first) * step
            if first <= length:
                new[crossing <= first] = 0.0
            elif float(step.abs().max()) <= 1e-15 * float(theta.abs().max()):
                return new
            theta = new
        return theta

    def centred(self, theta: Tensor) -> Tensor:
        """The midpoint of a column's two middle weights becomes 0; with an odd number of classes it is at optima."""
        c = len(theta)
        if c % 2:
            return theta
        middle = theta.sort(0).values[c // 2 - 1 : c // 2 + 1]
        return theta - middle.mean(0)


def _restricted(objective: Objective, outputs: Tensor, kept: Tensor) -> Tensor:
    """``(s, s)`` curvature of the mean risk in the s weights that are kept, class by class."""
    c = len(kept)
    eye = torch.eye(c, dtype=outputs.dtype, device=outputs.device)
    sides = [objective.f[:, kept[a]] for a in range(c)]
    rows = []
    for a in range(c):
        bent = objective.task.curved(outputs, eye[a].expand_as(outputs))
        rows.append(torch.cat([sides[a].T @ (bent[:, b, None] * sides[b]) for b in range(c)], 1))
    return torch.cat(rows) / len(outputs)


def _solve(h: Tensor, right: Tensor) -> Tensor:
    """A Newton step, also where some directions have no curvature."""
    mean = float(h.diagonal().mean())
    for jitter in (JITTER, 1e-9, 1e-6, 1e-3):
        factor, failed = torch.linalg.cholesky_ex(h + jitter * mean * torch.eye(len(h), dtype=h.dtype, device=h.device))
        if not int(failed):
            solved: Tensor = torch.cholesky_solve(right[:, None], factor)[:, 0]
            return solved
    return right / max(mean, 1e-300)


@dataclass(frozen=True)
class Nuclear:
    """The sum of the singular values of Θ."""

    name: str = "nuclear"

    def dual(self, gradient: Tensor) -> float:
        """Largest singular value."""
        return float(torch.linalg.matrix_norm(gradient, 2))

    def proximal(self, theta: Tensor, length: float) -> Tensor:
        """Singular values moved towards zero by ``length``."""
        u, s, vt = torch.linalg.svd(theta, full_matrices=False)
        result: Tensor = u * (s - length).clamp_min(0) @ vt
        return result

    def residual(self, theta: Tensor, dual: Tensor) -> float:
        """``dual`` must be U Vᵀ on the singular vectors of Θ, with singular values within 1 on the others."""
        u, _, vt = parts(theta)
        rest = dual - u @ (u.T @ dual)
        rest = rest - (rest @ vt.T) @ vt
        apart = max(
            [float((u.T @ dual - vt).abs().max()), float((dual @ vt.T - u).abs().max())] if u.numel() else [0.0]
        )
        return max(apart, float(torch.linalg.matrix_norm(rest, 2)) - 1)

    def polish(self, objective: Objective, theta: Tensor, penalty: float) -> Tensor:
        """Newton's method on factors Θ = A Bᵀ with λ/2 (|A|² + |B|²), which equals λ times the norm at its minimum."""
        u, s, vt = parts(theta)
        c = len(theta)
        both = torch.cat([u, vt.T]) * s.sqrt()  # (C + q, rank)
        size = torch.inf
        for _ in range(NEWTON_STEPS):
            a, b = both[:c], both[c:]
            outputs = objective.outputs(a @ b.T)
            m = objective.mean_gradient(outputs)
            slope = torch.cat([m @ b, m.T @ a]) + penalty * both
            before, size = size, float(slope.abs().max())
            if size == 0 or size >= before:
                return theta
            theta = a @ b.T

            def product(v: Tensor, a: Tensor = a, b: Tensor = b, m: Tensor = m, z: Tensor = outputs) -> Tensor:
                da, db = v[0, :c], v[0, c:]
                dm = objective.product(z, (da @ b.T + a @ db.T)[None])[0]
                bent = torch.cat([dm @ b + m @ db, dm.T @ a + m.T @ da])
                return (bent + penalty * v[0])[None]

            step, _ = conjugate_gradients(product, slope[None], _unchanged, 1e-8, 4 * both.numel())
            both = both - step[0]
        return theta

    def centred(self, theta: Tensor) -> Tensor:
        """Themselves: this norm grows with any shift of a column from its mean of 0, which optima have."""
        return theta


def _unchanged(v: Tensor) -> Tensor:
    return v


def parts(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U ``(C, r)``, singular values ``(r,)`` and Vᵀ ``(r, q)`` of a matrix of rank r."""
    u, s, vt = torch.linalg.svd(theta, full_matrices=False)
    rank = int((s > RANK * s[0]).sum()) if float(s[0]) > 0 else 0
    return u[:, :rank], s[:rank], vt[:rank]
