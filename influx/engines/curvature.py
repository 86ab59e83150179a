"""Curvature of the mean training objective, regulariser included: H_r = (1/n) Σ ∇²L(z_i) + wd·I.

Everything is float64. The generalised Gauss-Newton matrix equals the Hessian when the model is linear in its
parameters; for other nets it is its positive semi-definite part (Martens 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

from influx.engines.gradients import GradientsAt
from influx.errors import IncompatibleError, NumericalError
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.optimizers import AdamW
from influx.learners.torch.sequential import decays
from influx.problem import Split

Kind = Literal["ggn", "hessian"]
COLUMN_CHUNK = 64  # Hessian columns per pass
PASS_BYTES = 64 << 20  # activations and tangents of one pass over instances and columns


@dataclass(frozen=True)
class Factorised:
    """H_r + δI by its Cholesky factor. ``report`` says how far to believe its solutions."""

    matrix: Tensor  # (p, p), damping included
    factor: Tensor
    report: dict[str, float]

    def solve(self, rhs: Tensor) -> Tensor:
        """``(k, p)`` solutions for right-hand sides ``(k, p)``."""
        solved: Tensor = torch.cholesky_solve(rhs.T, self.factor).T
        return solved

    def residual(self, x: Tensor, rhs: Tensor) -> float:
        """Largest relative residual of ``k`` solutions, from a fresh product."""
        return float(((x @ self.matrix - rhs).norm(dim=1) / rhs.norm(dim=1).clamp_min(1e-300)).max())

    def quadratic(self, rows: Tensor) -> Tensor:
        """``(k,)`` values gᵀ (H_r + δI)⁻¹ g of rows ``(k, p)``."""
        half: Tensor = torch.linalg.solve_triangular(self.factor, rows.T, upper=False)
        return half.square().sum(0)


@dataclass(frozen=True)
class Curvature:
    """Curvature of one trained problem at its final parameters."""

    fitted: TorchFitted
    train: Split

    @cached_property
    def at(self) -> GradientsAt:
        """Per-instance gradients at the final parameters in float64, in the parameter order of ``matrix``."""
        module = self.fitted.model().double()
        return GradientsAt(module, self.fitted.task, "all", self._tensors)

    def _tensors(self, split: Split) -> tuple[Tensor, Tensor]:
        x, y = self.fitted.tensors(split)
        return x.double(), (y.double() if y.is_floating_point() else y)

    def matrix(self, kind: Kind, max_p: int) -> Tensor:
        """``(p, p)`` H_r of the given kind, symmetric.

        Raises:
            IncompatibleError: p exceeds ``max_p``.
        """
        check_size(self.at.size, max_p)
        h = self._ggn() if kind == "ggn" else self._hessian()
        h.diagonal().add_(self.decay)
        return h

    def stationarity(self, mean_gradient: Tensor) -> float:
        """Norm of the training objective's gradient, given the ``(p,)`` mean of the risks' gradients."""
        theta = torch.cat([p.detach().flatten() for p in self.at.parameters.values()])
        return float((mean_gradient + self.decay * theta).norm())

    @property
    def decoupled(self) -> bool:
        """True when the optimizer's weight decay is not the gradient of a regulariser (AdamW)."""
        return isinstance(self.fitted.recipe.optimizer, AdamW) and self.fitted.recipe.optimizer.weight_decay > 0

    @property
    def decay(self) -> Tensor:
        """``(p,)`` weight decay of every parameter."""
        params = list(self.at.parameters.values())
        each = decays(self.fitted.recipe.optimizer, [p.shape for p in params])
        decay: Tensor = torch.cat([p.new_full((p.numel(),), wd) for p, wd in zip(params, each, strict=True)])
        return decay

    def _ggn(self) -> Tensor:
        """(1/n) Σ_i J_iᵀ Λ_i J_i with Λ = Σ_k l_k l_kᵀ: per-instance gradients of the outputs weighted by l_k."""
        task, n = self.fitted.task, len(self.train)
        h = torch.zeros(self.at.size, self.at.size, dtype=torch.float64, device=self.fitted.device)
        size = max(1, min(self.at.block_size(self.train), (64 << 20) // (8 * self.at.size)))
        for start in range(0, n, size):
            x, y = self._tensors(self.train.take(slice(start, start + size)))
            for k in range(self.outputs):
                rows = self.at.rows(x, y, partial(task.curvature_factor, k=k)).flat()
                h.addmm_(rows.T, rows, alpha=1 / n)
        return h

    @property
    def outputs(self) -> int:
        """Width of the model's output."""
        x, _ = self._tensors(self.train.take(slice(0, 1)))
        with torch.no_grad():
            return int(self.at.module(x).shape[-1])

    def _hessian(self) -> Tensor:
        module, task, n = self.at.module, self.fitted.task, len(self.train)
        eye = torch.eye(self.at.size, dtype=torch.float64, device=self.fitted.device)
        h, size = torch.zeros_like(eye), self.pass_size()
        for start in range(0, n, size):
            x, y = self._tensors(self.train.take(slice(start, start + size)))
            product = partial(hessian_product, module, task, x, y)  # of the mean over these instances
            for rows, part in zip(h.split(COLUMN_CHUNK), eye.split(COLUMN_CHUNK), strict=True):
                rows.add_(vmap(product)(part), alpha=len(x) / n)
        return (h + h.T) / 2

    def pass_size(self) -> int:
        """Instances per pass of ``_hessian``: each keeps its activations once and again for every column."""
        columns = min(COLUMN_CHUNK, self.at.size)
        return max(1, PASS_BYTES // (8 * (columns + 1) * self.at.activations(self.train)))


def check_size(p: int, max_p: int) -> None:
    """Refuse a matrix that is too large.

    Raises:
        IncompatibleError: p exceeds ``max_p``.
    """
    if p > max_p:
        raise IncompatibleError(
            f"the exact solver builds a {p} x {p} matrix ({p**2 * 8 / 1e9:.1f} GB), "
            f"estimator.max_p allows {max_p}; raise it or choose a smaller model"
        )


def hessian_product(module: nn.Module, task: object, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """``(p,)`` Hessian of the mean risk times ``v``: the Hessian is symmetric, so reverse over reverse gives it."""
    named = {k: p.detach() for k, p in module.named_parameters()}
    sizes = [p.numel() for p in named.values()]
    buffers = dict(module.named_buffers())

    def mean_risk(params: dict[str, Tensor]) -> Tensor:
        return task.loss(functional_call(module, buffers | params, (x,)), y).mean()  # type: ignore[attr-defined,no-any-return]

    pieces = zip(named.items(), v.split(sizes), strict=True)
    tangent = {k: piece.view_as(p) for (k, p), piece in pieces}
    product = vjp(grad(mean_risk), named)[1](tangent)[0]
    return torch.cat([product[k].flatten() for k in named])


def factorise(h: Tensor, damping: float | None) -> Factorised:
    """Factorise H_r + δI.

    ``damping`` None means δ = 0 when H_r is well conditioned (λ_min > 1e-8 λ_max) and otherwise a tenth of its
    mean eigenvalue, a common heuristic without theory behind it.

    Raises:
        NumericalError: H_r + δI is not positive definite; names a damping that is enough.
    """
    eigenvalues = torch.linalg.eigvalsh(h)
    smallest, largest, mean = float(eigenvalues[0]), float(eigenvalues[-1]), float(eigenvalues.mean())
    chosen = damping
    if chosen is None:
        chosen = 0.0 if smallest > 1e-8 * largest else 0.1 * mean
    damped = h + chosen * torch.eye(len(h), dtype=h.dtype, device=h.device)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed) or smallest + chosen <= 0:
        enough = max(-2 * smallest, 1e-3 * abs(mean), 1e-6)
        raise NumericalError(
            f"the curvature matrix plus estimator.damping={chosen:.3g} must be positive definite, its smallest "
            f"eigenvalue is {smallest + chosen:.3g}; set estimator.damping={enough:.2g} or estimator.curvature=ggn"
        )
    effective = float((eigenvalues.clamp_min(0) / (eigenvalues.clamp_min(0) + chosen).clamp_min(1e-300)).sum())
    report = {"damping": chosen, "lambda_min": smallest, "lambda_max": largest, "effective_dimension": effective}
    return Factorised(damped, factor, report)
