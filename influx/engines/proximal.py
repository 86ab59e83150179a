"""Training objectives without one instance, held near the trained parameters θ_s: many instances at a time.

Two objectives in q, both with (λ/2)|q - θ_s|²:

- ``response``, the proximal Bregman objective (Bae et al. 2022): (1/n) Σ_j D_j + ε L(z_i; q), where D_j is the
  Bregman divergence of the risk between the outputs of q and those of θ_s, and so stationary at θ_s whatever
  training left undone;
- ``retrained``: the risks themselves, (1/n) Σ_j L(z_j; q) + ε L(z_i; q).

Weight decay is a part of the training objective and is treated as one: (1/2) qᵀ W q in ``retrained``, and its Bregman
divergence (1/2)(q - θ_s)ᵀ W (q - θ_s) in ``response``. The Hessian of ``response`` at θ_s for ε = 0 is therefore
P = G + W + λI, the matrix that influence functions with damping λ invert, and its derivative in ε is
-P⁻¹ ∇L(z_i; θ_s) even if θ_s is no minimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from influx import interrupts, progress
from influx.engines.curvature import Curvature, Factorised, factorise
from influx.engines.gradients import OutputGradient
from influx.engines.quasi_newton import MEMORY, Minimised, minimise
from influx.engines.stack import Stack
from influx.errors import ConfigError
from influx.learners.torch.tasks import Task
from influx.problem import Split

if TYPE_CHECKING:
    from collections.abc import Iterator

Objective = Literal["response", "retrained"]
STATE_BYTES = 96 << 20  # parameters, gradients and memory of the instances that are done together
PASS_BYTES = 16 << 20  # activations of one pass
RANK = 1  # of each instance's curvature is taken out of the metric, at one solve each; more did not save steps
KEPT_BYTES = 256 << 20  # a larger training split is converted anew in every pass
LEAST = 0.1  # of the median gradient, for the accuracy of what all instances share
OUTPUT_ROUNDING = 100 * 2.0**-53  # of outputs of about 100


@dataclass(frozen=True)
class Moved:
    """Parameters without each of ``K`` instances.

    Attributes:
        theta: ``(K, p)``.
        own: ``(K,)`` change of the left-out instance's own risk.
        residual: ``(K,)`` norm of the gradient that is left over that of the left-out risk (see ``Proximal.remove``).
        converged: ``(K,)``.
        iterations: ``(K,)``.
    """

    theta: Tensor
    own: Tensor
    residual: Tensor
    converged: Tensor
    iterations: Tensor


@dataclass(frozen=True)
class Reduced:
    """Inverses of P - c bᵀb for ``K`` instances, b (r, p) being the largest factors of their own curvature.

    Removing z_i takes its curvature out of the objective, which is all that the Hessian of ``response`` at θ_s loses.
    By Woodbury's identity.
    """

    of_all: Tensor  # (p, p) P⁻¹
    solved: Tensor  # (K, r, p) P⁻¹b
    core: Tensor  # (K, r, r) c (1 - c b P⁻¹ bᵀ)⁻¹

    @classmethod
    def of(cls, problem: Proximal, rows: Tensor, share: float) -> Reduced:
        """For ``rows`` (K,) whose weight falls by ``share`` (negative: rises)."""
        parts = []
        for rank in range(min(RANK, problem.engine.outputs)):
            parts.append(problem.factor(rows, rank))
        factors = torch.stack(parts, 1)  # (K, r, p)
        solved = (factors.flatten(0, 1) @ problem.inverse).view_as(factors)
        own = factors @ solved.transpose(1, 2)
        core = torch.linalg.inv(torch.eye(own.shape[1], dtype=own.dtype, device=own.device) - share * own)
        return cls(problem.inverse, solved, share * core)

    def solve(self, gradients: Tensor, which: Tensor) -> Tensor:
        """``(k, p)`` for gradients (k, p) of the instances numbered ``which`` (k,)."""
        solved = self.solved[which]
        inside = self.core[which] @ (solved @ gradients.unsqueeze(2))  # (k, r, 1)
        return gradients @ self.of_all + (inside.transpose(1, 2) @ solved).squeeze(1)


@dataclass(frozen=True)
class Proximal:
    """Removals from one trained problem with damping λ. Everything is float64."""

    engine: Curvature
    damping: float | None
    max_p: int
    who: str = "estimator"  # of the settings named in errors

    @cached_property
    def metric(self) -> Factorised:
        """P = G + W + λI, with λ as influence functions choose it.

        Raises:
            ConfigError: nothing holds some parameter near θ_s.
            IncompatibleError: p exceeds ``max_p``.
        """
        if self.damping == 0 and not bool((self.engine.decay > 0).all()):
            raise ConfigError(
                f"{self.who}.damping must be positive where weight decay leaves parameters out, or the objective may "
                f"have no minimum, got 0; set {self.who}.damping=0.01 or null for automatic"
            )
        return factorise(self.engine.matrix("ggn", self.max_p), self.damping)

    @cached_property
    def inverse(self) -> Tensor:
        """``(p, p)`` P⁻¹ written out: one product of matrices is faster than two triangular solves of few rows."""
        return torch.cholesky_inverse(self.metric.factor)

    @property
    def chosen(self) -> float:
        """λ."""
        return float(self.metric.report["damping"])

    @property
    def stronger(self) -> float:
        """A λ to try when minimisations do not converge."""
        return 10 * self.chosen if self.chosen > 0 else 0.1 * float(self.metric.matrix.diagonal().mean())

    @cached_property
    def stack(self) -> Stack:
        """The net as a function of its parameters."""
        return Stack(self.engine.at.module)

    @cached_property
    def at_start(self) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs ``(n, outputs)``, their risks' gradients, and risks ``(n,)`` of training instances at θ_s."""
        found: list[list[Tensor]] = [[], [], []]
        for x, y, _ in self._passes(self.engine.train, 1):
            with torch.no_grad():
                outputs = self.stack.outputs(self.stack.theta.unsqueeze(0), x)[0]
            parts = outputs, self._task.output_gradient(outputs, y), self._task.loss(outputs, y)
            for kept, part in zip(found, parts, strict=True):
                kept.append(part)
        outputs, slopes, risks = (torch.cat(kept) for kept in found)
        return outputs, slopes, risks

    def linear(self, rows: Tensor) -> Tensor:
        """Shifts ``(1/n) P⁻¹ ∇L(z_i; θ_s)`` (K, p) of rows (K,): what influence functions take removal to do."""
        return self.metric.solve(self._gradients(rows))

    def _gradients(self, rows: Tensor, of: OutputGradient | None = None) -> Tensor:
        """``(K, p)`` gradients of the risks of ``rows``, over n; ``of`` replaces the risk's gradient."""
        x, y = self.engine.tensors(self.engine.train.take(rows.cpu().numpy()))
        size = self.engine.at.block_size(self.engine.train)
        pairs = zip(x.split(size), y.split(size), strict=True)
        return torch.cat([self.engine.at.rows(*pair, of).flat() for pair in pairs]) / len(self.engine.train)

    def factor(self, rows: Tensor, rank: int) -> Tensor:
        """``(K, p)`` of each row's curvature (1/n) JᵀΛJ, the part of the ``rank``-th largest eigenvalue of Λ."""
        n = len(self.engine.train)

        def of(outputs: Tensor, y: Tensor) -> Tensor:
            eye = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
            inner = self._task.curved(outputs, eye.unsqueeze(1).expand(-1, len(outputs), -1)).transpose(0, 1)
            values, vectors = torch.linalg.eigh(inner)
            found: Tensor = vectors[:, :, -1 - rank] * values[:, -1 - rank, None].clamp_min(0).sqrt()
            return found

        return self._gradients(rows, of) * math.sqrt(n)

    def blocks(self, rows: Tensor, label: str) -> Iterator[Tensor]:
        """``rows`` in pieces whose parameters fit together, shown as progress."""
        p = self.engine.at.size
        size = max(1, STATE_BYTES // (8 * p * (3 * MEMORY + 8)))
        with progress.task(label, len(rows)) as done:
            for part in rows.split(size):
                interrupts.check()
                yield part
                done(len(part))

    def remove(self, rows: Tensor, objective: Objective, tol: float, steps: int, epsilon: float | None = None) -> Moved:
        """Minimisers of the objective for each of ``rows`` (K,), each with ε = -1/n unless given.

        Converged means that the gradient left is at most ``tol`` times ∇L(z_i)/n, both in the norm √(gᵀ P_i⁻¹ g),
        P_i being P without z_i: this bounds the error of a test risk's change by ``tol`` times the largest that it can
        be to first order. Of instances with hardly any gradient no more is asked than the outputs' rounding allows.
        """
        n = len(self.engine.train)
        eps = -1 / n if epsilon is None else epsilon
        gradients, inverse = -eps * n * self._gradients(rows), Reduced.of(self, rows, -eps * n)
        shifts = inverse.solve(gradients, torch.arange(len(rows), device=rows.device))
        norms = (gradients * shifts).sum(1).clamp_min(0).sqrt()
        start = self.stack.theta + (shifts if objective == "response" else torch.zeros_like(shifts))

        def evaluate(theta: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            interrupts.check_forced()
            return self.evaluate(theta, rows[which], objective, eps)

        found: Minimised = minimise(evaluate, start, inverse.solve, tol * norms + self._floor, steps)
        return Moved(
            theta=found.x,
            own=self._own(found.x, rows),
            residual=found.decrement / norms.clamp_min(max(self._floor, 1e-300)),
            converged=found.converged,
            iterations=found.iterations,
        )

    def keep(self, rows: Tensor, tol: float, steps: int) -> Moved:
        """Minimiser of ``retrained`` with nothing left out ``(1, p)``, exact enough for most of ``rows``."""
        gradients = self._gradients(rows)
        norms = (gradients * self.metric.solve(gradients)).sum(1).clamp_min(0).sqrt()
        target, first = tol * torch.maximum(norms.min(), LEAST * norms.median()) + self._floor, rows[:1]
        found = minimise(
            lambda theta, _: self.evaluate(theta, first, "retrained", 0.0),
            self.stack.theta.unsqueeze(0),
            lambda gradients, _: gradients @ self.inverse,
            target.unsqueeze(0),
            steps,
        )
        own = self._own(found.x, first)
        return Moved(found.x, own, found.decrement / target * tol, found.converged, found.iterations)

    @property
    def _floor(self) -> float:
        """Norm in P⁻¹ of the gradient that rounding of the outputs makes, roughly."""
        share = float(self.metric.report["effective_dimension"]) / len(self.engine.train)
        return OUTPUT_ROUNDING * math.sqrt(max(share, 0.0))

    def changes(self, theta: Tensor, split: Split) -> Tensor:
        """``(K, m)`` risks under parameters ``theta`` (K, p) minus those at θ_s."""
        both = torch.cat([theta, self.stack.theta.unsqueeze(0)])
        risks = []
        for x, y, _ in self._passes(split, len(both)):
            with torch.no_grad():
                risks.append(self._task.loss(self.stack.outputs(both, x), y))
        found = torch.cat(risks, 1)
        return found[:-1] - found[-1]

    def evaluate(self, theta: Tensor, rows: Tensor, objective: Objective, eps: float) -> tuple[Tensor, Tensor]:
        """Values ``(K,)`` and gradients ``(K, p)`` of the objectives at ``theta`` (K, p)."""
        n, (start, slopes, risks) = len(self.engine.train), self.at_start
        value, gradient = theta.new_zeros(len(theta)), torch.zeros_like(theta)
        leaf = theta.detach().requires_grad_()
        for x, y, part in self._passes(self.engine.train, len(theta)):
            with torch.enable_grad():
                outputs = self.stack.outputs(leaf, x)
            with torch.no_grad():
                found = outputs.detach()
                each, pull = self._task.loss(found, y), self._task.output_gradient(found, y)
                inside = torch.nonzero((rows >= part.start) & (rows < part.stop)).flatten()
                place = rows[inside] - part.start
                value[inside] += eps * each[inside, place]
                extra = eps * pull[inside, place]
                if objective == "response":
                    each = each - risks[part] - ((found - start[part]) * slopes[part]).sum(-1)
                    pull = pull - slopes[part]
                value += each.sum(1) / n
                pull = pull / n
                pull[inside, place] += extra
            gradient += torch.autograd.grad(outputs, leaf, pull)[0]
        offset = theta - self.stack.theta
        decayed = offset if objective == "response" else theta
        held = self.engine.decay * decayed + self.chosen * offset
        value += 0.5 * (self.engine.decay * decayed.square() + self.chosen * offset.square()).sum(1)
        return value, gradient + held

    @property
    def _task(self) -> Task:
        return self.engine.fitted.task

    def _own(self, theta: Tensor, rows: Tensor) -> Tensor:
        """``(K,)`` change of each row's own risk under its own parameters."""
        x, y = self.engine.tensors(self.engine.train.take(rows.cpu().numpy()))
        with torch.no_grad():
            risks: Tensor = self._task.loss(self.stack.paired(theta, x), y)
        return risks - self.at_start[2][rows]

    def _passes(self, split: Split, models: int) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Inputs, targets and rows of pieces whose activations of ``models`` models fit together."""
        size = max(1, PASS_BYTES // (8 * models * self.engine.at.activations(split)))
        for first in range(0, len(split), size):
            part = slice(first, min(first + size, len(split)))
            if split is self.engine.train and self._kept is not None:
                yield self._kept[0][part], self._kept[1][part], part
            else:
                yield *self.engine.tensors(split.take(part)), part

    @cached_property
    def _kept(self) -> tuple[Tensor, Tensor] | None:
        """The training split as tensors, which every evaluation reads, if it is small."""
        split = self.engine.train
        return self.engine.tensors(split) if 8 * split.x.size <= KEPT_BYTES else None
