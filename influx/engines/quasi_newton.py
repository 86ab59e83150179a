"""Many unconstrained minimisations at once: L-BFGS whose first guess of the inverse Hessian is a given solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # points (k, p), their numbers (k,) -> values, gradients
Solve = Callable[[Tensor, Tensor], Tensor]  # (k, p), numbers (k,) -> (k, p): approximate inverse Hessians, linear
MEMORY = 20  # pairs of steps and changes of the gradient
HALVINGS = 30
SUFFICIENT = 1e-4  # of the decrease that the slope promises (Armijo)
ROUNDING = 1e-13  # values of about 1 differ by this much without meaning anything


@dataclass(frozen=True)
class Minimised:
    """Where ``K`` minimisations ended.

    Attributes:
        x: ``(K, p)`` points.
        decrement: ``(K,)`` √(gᵀ P⁻¹ g) of the gradient g that is left, P⁻¹ being the solver.
        converged: ``(K,)`` whether that is within the target.
        iterations: ``(K,)`` steps taken.
    """

    x: Tensor
    decrement: Tensor
    converged: Tensor
    iterations: Tensor


@dataclass
class _State:
    """The problems that still run, row by row."""

    number: Tensor  # (k,) which problems they are
    x: Tensor
    value: Tensor
    gradient: Tensor
    solved: Tensor  # P⁻¹ gradient
    pairs: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)  # s, y, P⁻¹y, 1 / sᵀy

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the problems."""
        self.number, self.x, self.value = self.number[rows], self.x[rows], self.value[rows]
        self.gradient, self.solved = self.gradient[rows], self.solved[rows]
        self.pairs = [(s[rows], y[rows], z[rows], rho[rows]) for s, y, z, rho in self.pairs]

    def direction(self) -> Tensor:
        """``(k, p)`` minus the inverse Hessian by L-BFGS, times the gradient (Nocedal & Wright, algorithm 7.4).

        P⁻¹ is linear, so that P⁻¹(g - Σ a y) needs no solve beyond those of the gradients themselves.
        """
        left, solved, factors = self.gradient.clone(), self.solved.clone(), []
        for s, y, z, rho in reversed(self.pairs):
            a = (rho * (s * left).sum(1)).unsqueeze(1)
            left.addcmul_(a, y, value=-1)
            solved.addcmul_(a, z, value=-1)
            factors.append(a)
        for (s, y, _, rho), a in zip(self.pairs, reversed(factors), strict=True):
            b = (rho * (y * solved).sum(1)).unsqueeze(1)
            solved.addcmul_(a - b, s)
        return -solved


def minimise(evaluate: Evaluate, start: Tensor, solve: Solve, target: Tensor, steps: int) -> Minimised:
    """Minimise ``K`` functions from ``start`` (K, p) until each decrement is at most its ``target`` (K,).

    A problem stops unconverged after ``steps`` steps, when no step makes it smaller, or when a number is not finite.
    The problems do not see each other, so that their results do not depend on how many are done together.
    """
    count = len(start)
    result = Minimised(
        x=start.clone(),
        decrement=torch.full_like(target, torch.inf),
        converged=torch.zeros(count, dtype=torch.bool, device=start.device),
        iterations=torch.zeros(count, dtype=torch.long, device=start.device),
    )
    number = torch.arange(count, device=start.device)
    value, gradient = evaluate(start, number)
    now = _State(number, start, value, gradient, solve(gradient, number))
    for step in range(steps + 1):
        decrement = (now.gradient * now.solved).sum(1).clamp_min(0).sqrt()
        done = decrement <= target[now.number]
        result.x[now.number], result.iterations[now.number] = now.x, step
        result.decrement[now.number], result.converged[now.number] = decrement, done
        now.keep(torch.nonzero(~done & torch.isfinite(decrement) & torch.isfinite(now.value)).flatten())
        if not len(now.number) or step == steps:
            break
        _advance(now, evaluate, solve)
    return result


def _advance(now: _State, evaluate: Evaluate, solve: Solve) -> None:
    """One step of every problem; those that find none are left out from now on."""
    direction = now.direction()
    slope = (direction * now.gradient).sum(1)
    uphill = ~(slope < 0)  # by rounding alone: pairs without positive curvature are not used
    direction[uphill], slope[uphill] = -now.solved[uphill], -(now.gradient * now.solved).sum(1)[uphill]
    x, value, gradient = now.x.clone(), now.value.clone(), now.gradient.clone()
    open_, length = torch.arange(len(x), device=x.device), 1.0
    for _ in range(HALVINGS):
        trial = now.x[open_] + length * direction[open_]
        tried, its = evaluate(trial, now.number[open_])
        before, down = now.value[open_], slope[open_]
        along = (its * direction[open_]).sum(1)
        level = ROUNDING * before.abs().clamp_min(1)  # where values cannot tell, slopes do (Hager & Zhang 2005)
        good = tried <= before + SUFFICIENT * length * down
        good |= (tried <= before + level) & (along <= -0.8 * down) & (along >= 0.8 * down)
        good &= torch.isfinite(tried) & torch.isfinite(its).all(1)
        rows = open_[good]
        x[rows], value[rows], gradient[rows] = trial[good], tried[good], its[good]
        open_, length = open_[~good], length / 2
        if not len(open_):
            break
    solved = solve(gradient, now.number)
    s, y, z = x - now.x, gradient - now.gradient, solved - now.solved
    curved = (s * y).sum(1)
    enough = curved > 1e-12 * s.norm(dim=1) * y.norm(dim=1)
    rho = torch.where(enough, 1 / torch.where(enough, curved, 1), 0)
    now.pairs = [*now.pairs, (s, y, z, rho)][-MEMORY:]
    now.x, now.value, now.gradient, now.solved = x, value, gradient, solved
    if len(open_):
        moved = torch.ones(len(x), dtype=torch.bool, device=x.device)
        moved[open_] = False
        now.keep(torch.nonzero(moved).flatten())
