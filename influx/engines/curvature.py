"""Curvature of the mean training objective, regulariser included: H_r = (1/n) Σ C_i + wd·I.

Everything is float64. The generalised Gauss-Newton matrix equals the Hessian when the model is linear in its
parameters; for other nets it is its positive semi-definite part (Martens 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.dense_curvature import DenseCurvature
from influx.engines.factorised import Factorised as Factorised
from influx.engines.factorised import check_size as check_size
from influx.engines.factorised import factorise as factorise
from influx.engines.gradients import Gradients, GradientsAt
from influx.engines.operators import VECTORS, Kind, Operator, is_definite
from influx.engines.products import Hessians
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.optimizers import AdamW
from influx.learners.torch.sequential import decays
from influx.learners.torch.tasks import Density
from influx.problem import Checkpoint, Split

WRITTEN_BYTES = 64 << 20  # of gradients multiplied at a time
CONDITIONED = 1e-8  # smallest eigenvalue over the largest from which no damping is needed
SMALL = 2000  # parameters up to which everything is float64: nets that are compared with exact solutions


@dataclass(frozen=True)
class Curvature:
    """Curvature of one trained problem at its final parameters or those of a ``checkpoint``.

    ``gradients`` are to be shared with others.
    """

    fitted: TorchFitted
    train: Split
    gradients: Gradients | None = None
    checkpoint: Checkpoint | None = None

    @cached_property
    def at(self) -> GradientsAt:
        """Per-instance gradients at these parameters in float64, in the parameter order of ``matrix``."""
        gradients = self.gradients or Gradients(self.fitted, self.train, self.train)
        return gradients.exact if self.checkpoint is None else gradients.at(self.checkpoint, dtype=torch.float64)

    @cached_property
    def layered(self) -> GradientsAt:
        """The same for curvature layer by layer: in the model's own precision, but for small nets."""
        if self.at.size <= SMALL:
            return self.at
        gradients = self.gradients or Gradients(self.fitted, self.train, self.train)
        return gradients.at(self.checkpoint or self.fitted.checkpoints[-1])

    def tensors(self, split: Split) -> tuple[Tensor, Tensor]:
        """Inputs and targets, floating-point ones in float64."""
        return self.at.tensors(split)

    def operator(self, kind: Kind, damping: float | None, uniform: NDArray[np.float64] | None = None) -> Operator:
        """Products with H_r + δI; ``uniform`` (n,) decides the labels of a sampled Fisher matrix.

        ``damping`` None means δ = 0 where weight decay alone keeps the matrix well conditioned, otherwise a tenth of
        its mean eigenvalue, a common heuristic without theory behind it.
        """
        drawn = np.empty(0) if uniform is None else uniform
        bare = Operator(self.at, self.fitted.task, self.train, kind, self.decay, uniform=drawn)
        if damping is None:
            trace, smallest = self.trace(bare), float(self.decay.min())
            damping = 0.0 if is_definite(kind) and smallest > CONDITIONED * trace else 0.1 * trace / self.at.size
        return bare.damped(damping)

    def trace(self, operator: Operator) -> float:
        """Trace of H_r; of the Hessian that of its Gauss-Newton part, which is never negative.

        Risks of densities have no such part: theirs is that of the empirical Fisher matrix.
        """
        decay, n = float(self.decay.sum()), len(self.train)
        if operator.kind == "hessian" and isinstance(self.fitted.task, Density):
            operator = replace(operator, kind="empirical_fisher")
        if operator.kind in ("sampled_fisher", "empirical_fisher"):
            return decay + sum(float(rows.square().sum()) * weight for rows, weight in operator.outer())
        total, size = 0.0, self.at.block_size(self.train)
        for start in range(0, n, size):
            x, y = self.tensors(self.train.take(slice(start, start + size)))
            for k in range(self.outputs):
                total += float(self.at.rows(x, y, partial(self.fitted.task.curvature_factor, k=k)).squares().sum())
        return decay + total / n

    def matrix(self, kind: Kind, max_p: int, uniform: NDArray[np.float64] | None = None) -> Tensor:
        """``(p, p)`` H_r of the given kind, symmetric.

        Raises:
            IncompatibleError: p exceeds ``max_p``.
        """
        check_size(self.at.size, max_p)
        operator = self.operator(kind, 0.0, uniform)
        dense = Hessians(self.at.module, self.fitted.task).dense
        if kind in ("sampled_fisher", "empirical_fisher"):
            h = self._outer(operator)
        elif dense is not None:
            h = self._dense(DenseCurvature(*dense, self.fitted.task, kind != "hessian"))
        else:
            h = self._columns(operator) if kind == "hessian" else self._ggn()
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

    def _outer(self, operator: Operator) -> Tensor:
        h = torch.zeros(self.at.size, self.at.size, dtype=torch.float64, device=self.fitted.device)
        for gradients, weight in operator.outer():
            h.addmm_(gradients.T, gradients, alpha=weight)
        return h

    def _dense(self, sums: DenseCurvature) -> Tensor:
        size = sums.block_size()
        for start in range(0, len(self.train), size):
            sums.add(*self.tensors(self.train.take(slice(start, start + size))))
        return sums.matrix().div_(len(self.train))

    def _columns(self, operator: Operator) -> Tensor:
        eye = torch.eye(self.at.size, dtype=torch.float64, device=self.fitted.device)
        h = torch.cat([operator.product(part) for part in eye.split(VECTORS)])
        h.diagonal().sub_(self.decay)
        return (h + h.T) / 2

    def _ggn(self) -> Tensor:
        """(1/n) Σ_i J_iᵀ Λ_i J_i with Λ = Σ_k l_k l_kᵀ: per-instance gradients of the outputs weighted by l_k."""
        task, n = self.fitted.task, len(self.train)
        h = torch.zeros(self.at.size, self.at.size, dtype=torch.float64, device=self.fitted.device)
        size = max(1, min(self.at.block_size(self.train), WRITTEN_BYTES // (8 * self.at.size)))
        for start in range(0, n, size):
            x, y = self.tensors(self.train.take(slice(start, start + size)))
            for k in range(self.outputs):
                rows = self.at.rows(x, y, partial(task.curvature_factor, k=k)).flat()
                h.addmm_(rows.T, rows, alpha=1 / n)
        return h

    @property
    def outputs(self) -> int:
        """Width of the model's output."""
        x, _ = self.tensors(self.train.take(slice(0, 1)))
        with torch.no_grad():
            return int(self.at.module(x).shape[-1])
