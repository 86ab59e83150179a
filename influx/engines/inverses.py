"""What solves with the curvature: the interface between solvers and the estimators that use them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.operators import Kind
from influx.engines.rows import Rows
from influx.planning import Prospect, Work
from influx.run import Run


class Inverse(Protocol):
    """(H_r + δI)⁻¹, exact or approximate."""

    @property
    def report(self) -> dict[str, float | str]:
        """Scalars that say how far to believe it: damping, residual, iterations, eigenvalues…, updated by solves."""
        ...

    def solve(self, rhs: Tensor) -> Tensor:
        """``(k, p)`` solutions for right-hand sides ``(k, p)``, float64, in the order of the parameters."""
        ...

    def quadratic(self, rows: Tensor) -> Tensor:
        """``(k,)`` values gᵀ (H_r + δI)⁻¹ g of rows ``(k, p)``."""
        ...


@runtime_checkable
class Repeated(Protocol):
    """An inverse that is an average of independent ones, so that its spread is a standard error."""

    def repeats(self, rhs: Tensor) -> Tensor:
        """``(r, k, p)`` independent solutions; their mean is what ``solve`` gives."""
        ...


@runtime_checkable
class Layered(Protocol):
    """An inverse that takes gradients layer by layer, by the factors that they are made of."""

    def quadratic_of(self, rows: Rows) -> Tensor:
        """What ``quadratic`` gives, from gradients that need not be written out."""
        ...


class Solver(Protocol):
    """How to solve, and its options. A frozen dataclass."""

    def inverse(self, run: Run, kind: Kind, damping: float | None) -> Inverse:
        """Prepare for the run's final parameters; ``damping`` None chooses δ."""
        ...

    def work(self, prospect: Prospect, kind: Kind, own: bool) -> Work:
        """What influence on all test instances takes, and with ``own`` on every training instance itself."""
        ...


def solutions(inverse: Inverse, rhs: Tensor) -> Tensor:
    """``(r, k, p)`` independent solutions for right-hand sides ``(k, p)``; r = 1 unless the inverse is an average."""
    return inverse.repeats(rhs) if isinstance(inverse, Repeated) else inverse.solve(rhs)[None]


def by_instance(run: Run, what: str) -> NDArray[np.float64]:
    """``(n,)`` uniform numbers in [0, 1), one to a training instance whatever the order of rows."""
    ids = run.train.ids
    drawn: NDArray[np.float64] = run.drawn(what).random(int(ids.max()) + 1)[ids]
    return drawn


def labels_of(run: Run, kind: Kind) -> NDArray[np.float64] | None:
    """What decides the labels of a sampled Fisher matrix; None for other curvatures."""
    return by_instance(run, "labels of the sampled Fisher matrix") if kind == "sampled_fisher" else None
