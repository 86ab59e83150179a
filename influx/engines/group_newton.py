"""One Newton step from the trained parameters to those without a group of training instances."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import progress
from influx.engines.curvature import Curvature
from influx.engines.factorised import Factorised
from influx.engines.groups import Groups
from influx.engines.inverses import Inverse, labels_of
from influx.engines.operators import Kind, Operator
from influx.engines.solvers.cg import BlockCG
from influx.engines.solvers.exact import Exact
from influx.errors import NumericalError
from influx.run import Run

LOST = 1e-13  # smallest pivot over the largest entry from which rounding decides the rest


@dataclass(frozen=True)
class NewtonSteps:
    """Steps (1/n) (H_r + δI - (1/n) Σ_D C_i)⁻¹ Σ_D g_i for groups D: one matrix, or one system, for each.

    ``inverse`` is that of H_r + δI, factorised or by conjugate gradients.
    """

    run: Run
    groups: Groups
    kind: Kind
    inverse: Inverse

    def steps(self, part: slice, sums: Tensor) -> Tensor:
        """``(k, p)`` steps for the groups ``part`` with gradient sums ``(k, p)``.

        Raises:
            NumericalError: the curvature without a group is singular or negative somewhere.
        """
        found = torch.empty_like(sums)
        names = self.groups.names[part]
        with progress.task("steps without groups", len(names)) as done:
            for number, (name, members) in enumerate(zip(names, self.groups.members[part], strict=True)):
                rhs = sums[number : number + 1]
                if isinstance(self.inverse, Factorised):
                    step = self._by_matrix(self.inverse, name, np.flatnonzero(members), rhs)
                else:
                    assert isinstance(self.inverse, BlockCG)
                    step = self._by_products(self.inverse, np.flatnonzero(~members), rhs)
                found[number] = step[0] / len(members)
                done(1)
        return found

    def _by_matrix(self, whole: Factorised, name: str, rows: NDArray[np.int64], rhs: Tensor) -> Tensor:
        engine, train = self.run.curvature, self.run.train
        labels = labels_of(self.run, self.kind)
        own = Curvature(engine.fitted, train.take(rows))
        removed = own.matrix(self.kind, Exact().max_p, None if labels is None else labels[rows])
        removed.diagonal().sub_(engine.decay)
        rest = whole.matrix - removed * (len(rows) / len(train))
        factor, failed = torch.linalg.cholesky_ex(rest)
        if int(failed) or float(factor.diagonal().min()) ** 2 <= LOST * float(rest.diagonal().max()):
            smallest = float(torch.linalg.eigvalsh(rest)[0])
            given = float(whole.report["damping"])
            enough = given + max(-2 * smallest, 1e-3 * float(whole.matrix.diagonal().mean()))
            raise NumericalError(
                f"the curvature without group {name!r} plus estimator.damping={given:.3g} must be positive definite, "
                f"its smallest eigenvalue is {smallest:.3g}; set estimator.damping={enough:.2g} or "
                "estimator.newton=false"
            )
        step: Tensor = torch.cholesky_solve(rhs.T, factor).T
        residual = float((step @ rest - rhs).norm() / rhs.norm().clamp_min(1e-300))
        self._note("newton_residual", residual)
        return step

    def _by_products(self, whole: BlockCG, rest: NDArray[np.int64], rhs: Tensor) -> Tensor:
        """H_r + δI - (1/n) Σ_D C_i is c times the damped curvature of the others with shift / c, c their share."""
        solver = replace(whole, operator=without(whole.operator, rest), report={})
        step = solver.solve(rhs) * (len(self.run.train) / len(rest))
        self._note("newton_residual", float(solver.report["residual"]))
        self._note("newton_iterations", float(solver.report["iterations"]))
        return step

    def _note(self, name: str, value: float) -> None:
        self.inverse.report[name] = max(float(self.inverse.report.get(name, 0.0)), value)


def without(operator: Operator, rest: NDArray[np.int64]) -> Operator:
    """The operator of the rows ``rest`` alone, with weight decay and damping divided by their share."""
    share = len(rest) / len(operator.train)
    return replace(
        operator,
        train=operator.train.take(rest),
        decay=operator.decay / share,
        damping=operator.damping / share,
        uniform=operator.uniform[rest] if len(operator.uniform) else operator.uniform,
    )
