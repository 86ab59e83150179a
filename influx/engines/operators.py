"""Products with the curvature of the training objective, (H_r + δI) v, for many vectors at once.

H_r = (1/n) Σ_i C_i + diag(weight decay), with C_i the curvature of instance i's risk at the final parameters: its
Hessian, its Gauss-Newton matrix, or a Fisher matrix. For softmax cross-entropy and for squared error the Fisher matrix
with all labels weighted as the model would give them is the Gauss-Newton matrix (Martens 2020, arXiv:1412.1193,
section 9.2); with one label drawn per instance it is an estimate of it, with the recorded labels it is the empirical
Fisher matrix. A product is a mean over all instances that it is asked for: inverses are never averaged over batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.gradients import GradientsAt
from influx.engines.products import Hessians
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.tasks import NO_OUTPUT_CURVATURE, Classification, Density, Regression, Task
from influx.problem import Split

Kind = Literal["ggn", "hessian", "fisher", "sampled_fisher", "empirical_fisher"]
PASS_BYTES = 64 << 20  # activations and tangents of one pass over instances and vectors
VECTORS = 128  # vectors per pass


def check_curvature(kind: str, damping: float | None) -> None:
    """Check the settings that all curvature solvers share.

    Raises:
        ConfigError: unknown curvature or negative damping.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"estimator.curvature must be one of {', '.join(get_args(Kind))}, got {kind}")
    if damping is not None and not damping >= 0:
        raise ConfigError(f"estimator.damping must not be negative, got {damping}; use null for automatic")


def sampled(task: Task, uniform: NDArray[np.float64], outputs: Tensor, y: Tensor) -> Tensor:
    """``(b, outputs)`` gradients of the risk of labels drawn from the model, which ``uniform`` (b,) decides.

    Raises:
        IncompatibleError: a density model has no labels.
    """
    if isinstance(task, Density):
        raise IncompatibleError(NO_OUTPUT_CURVATURE)
    drawn = torch.as_tensor(uniform).to(outputs)
    if isinstance(task, Classification):
        cumulated = torch.softmax(outputs, -1).cumsum(-1)
        labels = (drawn.unsqueeze(1) > cumulated).sum(1).clamp_max(outputs.shape[1] - 1)
        return task.output_gradient(outputs, labels)
    noise: Tensor = torch.special.ndtri(drawn.clamp(1e-12, 1 - 1e-12))
    return -noise.unsqueeze(1).expand_as(outputs)


def is_definite(kind: Kind) -> bool:
    """Whether a curvature has no negative eigenvalue whatever the model."""
    return kind != "hessian"


def definite_kind(task: Task) -> Kind:
    """A curvature that has none for risks of this task, to advise and to precondition with in place of a Hessian."""
    return "ggn" if isinstance(task, Classification | Regression) else "empirical_fisher"


@dataclass(frozen=True)
class Operator:
    """H_r + δI over a training set, in the parameter order of ``at``.

    Attributes:
        at: per-instance gradients at the final parameters, float64.
        task: what outputs mean.
        train: the instances.
        kind: which curvature of a risk.
        decay: ``(p,)`` weight decay of every parameter.
        damping: δ ≥ 0.
        uniform: ``(n,)`` numbers in [0, 1) that decide the labels of ``sampled_fisher``, the same in all products.
    """

    at: GradientsAt
    task: Task
    train: Split
    kind: Kind
    decay: Tensor
    damping: float = 0.0
    uniform: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def size(self) -> int:
        """Number of parameters p."""
        return self.at.size

    @property
    def shift(self) -> Tensor:
        """``(p,)`` weight decay and damping, which every product adds."""
        return self.decay + self.damping

    def damped(self, damping: float) -> Operator:
        """The same with another δ."""
        return replace(self, damping=damping)

    @torch.no_grad()
    def product(self, vectors: Tensor, rows: NDArray[np.int64] | None = None) -> Tensor:
        """``(k, p)`` products of ``vectors`` (k, p).

        ``rows`` takes the curvature of these rows of the training set only, a batch's.
        """
        total = vectors * self.shift
        if self.kind in ("sampled_fisher", "empirical_fisher"):
            for gradients, weight in self.outer(rows):
                total.addmm_(vectors @ gradients.T, gradients, alpha=weight)
            return total
        for into, part in zip(total.split(VECTORS), vectors.split(VECTORS), strict=True):
            for found, weight in self._products(self.pieces(part), rows):
                into.add_(torch.cat([v.flatten(1) for v in found], 1), alpha=weight)
        return total

    def pieces(self, vectors: Tensor) -> list[Tensor]:
        """``(k, *shape)`` of every parameter, of vectors ``(k, p)``."""
        parts = vectors.split([p.numel() for p in self._parameters], 1)
        return [v.reshape(-1, *p.shape) for v, p in zip(parts, self._parameters, strict=True)]

    @torch.no_grad()
    def undamped(self, vectors: list[Tensor], rows: NDArray[np.int64] | None) -> list[Tensor]:
        """``product`` without the shift, of and in ``pieces``, computed in their precision."""
        if self.kind in ("sampled_fisher", "empirical_fisher"):
            flat = torch.cat([v.flatten(1) for v in vectors], 1).double()
            bare = replace(self, decay=torch.zeros_like(self.decay), damping=0.0)
            return self.pieces(bare.product(flat, rows).to(vectors[0]))
        total: list[Tensor] = []
        for found, weight in self._products(vectors, rows):
            if not total and weight == 1:
                total = found
            elif not total:
                total = [v * weight for v in found]
            else:
                for v, more in zip(total, found, strict=True):
                    v.add_(more, alpha=weight)
        return total

    @torch.no_grad()
    def trace(self) -> float:
        """Trace by products with random signs, the same ones every time (Hutchinson 1990); exact below 128 numbers."""
        if self.size > VECTORS:
            signs = torch.randint(0, 2, (VECTORS, self.size), generator=torch.Generator().manual_seed(0))
            probes = (2 * signs - 1).double()
        else:
            probes = torch.eye(self.size, dtype=torch.float64)
        probes = probes.to(self.decay)
        found = float((probes * self.product(probes)).sum())
        return found if self.size <= VECTORS else found / VECTORS

    def outer(self, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[Tensor, float]]:
        """Gradients ``(b, p)`` whose outer products make up a Fisher matrix, block by block, and 1/n."""
        chosen = np.arange(len(self.train)) if rows is None else rows
        size = self.at.block_size(self.train)
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            x, y = self.at.tensors(self.train.take(part))
            gradient = partial(sampled, self.task, self.uniform[part]) if self.kind == "sampled_fisher" else None
            yield self.at.rows(x, y, gradient).flat(), 1 / len(chosen)

    @property
    def _parameters(self) -> list[Tensor]:
        return list(self.at.parameters.values())

    def _products(self, vectors: list[Tensor], rows: NDArray[np.int64] | None) -> Iterator[tuple[list[Tensor], float]]:
        """Products with the mean curvatures of blocks of the rows, and each block's weight."""
        curved = self._curved if vectors[0].dtype == torch.float64 else self._curved_in_single
        for x, y, weight in self._blocks(rows, len(vectors[0])):
            yield curved.of(*(t.to(vectors[0].dtype) if t.is_floating_point() else t for t in (x, y)))(vectors), weight

    @cached_property
    def _curved(self) -> Hessians:
        return Hessians(self.at.module, self.task, gauss_newton=self.kind != "hessian")

    @cached_property
    def _curved_in_single(self) -> Hessians:
        return replace(self._curved, module=deepcopy(self.at.module).float())

    def _blocks(self, rows: NDArray[np.int64] | None, vectors: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        chosen = self.train if rows is None else self.train.take(rows)
        size = max(1, PASS_BYTES // (8 * (vectors + 1) * self.at.activations(self.train)))
        for start in range(0, len(chosen), size):
            x, y = self.at.tensors(chosen.take(slice(start, start + size)))
            yield x, y, len(x) / len(chosen)
