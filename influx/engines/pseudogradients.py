"""Gradients whose weighted outer products sum to a curvature matrix that is never formed.

With Λ = Σ_k l_k l_kᵀ the Hessian of a risk with respect to the outputs, the gradients of l_kᵀ f(x_i; θ) give the
Gauss-Newton matrix, which is the Fisher matrix. Gradients of the risk of labels that the model itself gives estimate
it without bias (Martens 2020, arXiv:1412.1193); those of the data's labels give the empirical Fisher matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from influx.engines.autograd import exactly
from influx.engines.gradients import GradientsAt, OutputGradient
from influx.engines.operators import Kind, sampled
from influx.engines.rows import Rows
from influx.learners.torch.loading import loaded
from influx.learners.torch.tasks import Task
from influx.problem import Split


@dataclass(frozen=True)
class PseudoGradients:
    """Of the instances of a split; every call of ``blocks`` gives the same ones.

    Attributes:
        at: per-instance gradients.
        task: what outputs mean.
        split: n instances with equal weights.
        kind: which curvature; ``hessian`` is no sum of outer products.
        outputs: width of the model's output.
        uniform: ``(n, s)`` numbers in [0, 1) that decide s labels of each instance for ``sampled_fisher``.
        size: instances per block.
    """

    at: GradientsAt
    task: Task
    split: Split
    kind: Kind
    outputs: int
    uniform: NDArray[np.float64]
    size: int

    def blocks(self) -> Iterator[tuple[Rows, float, bool]]:
        """Gradients, the weight of their outer products, whether the instances are those of the block before."""
        each = self.repeats
        weight = 1 / len(self.split) / (each if self.kind == "sampled_fisher" else 1)
        for part, (x, y) in loaded(self.split, self.size, self.at.tensors):
            seeds = [self._gradient(part, number) for number in range(each)]
            for number, rows in enumerate(self.at.several(x, y, seeds)):
                yield rows, weight, number > 0

    def first(self) -> Rows:
        """Of one instance, to see the layers."""
        x, y = self.at.tensors(self.split.take(slice(0, 1)))
        return self.at.rows(x, y, self._gradient(slice(0, 1), 0))

    @property
    def repeats(self) -> int:
        """Gradients per instance."""
        if self.kind in ("ggn", "fisher"):
            return self.outputs
        return self.uniform.shape[1] if self.kind == "sampled_fisher" else 1

    def _gradient(self, part: slice, number: int) -> OutputGradient | None:
        if self.kind in ("ggn", "fisher"):
            return partial(exactly, partial(self.task.curvature_factor, k=number))
        if self.kind == "sampled_fisher":
            return partial(exactly, partial(sampled, self.task, self.uniform[part, number]))
        return None
