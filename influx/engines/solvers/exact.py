"""Solving with the whole curvature matrix."""

from __future__ import annotations

from dataclasses import dataclass

from influx.engines.factorised import RAISE, Factorised, check_size, factorise
from influx.engines.inverses import labels_of
from influx.engines.operators import Kind, definite_kind
from influx.engines.solver_plans import exact_work
from influx.planning import Prospect, Work
from influx.run import Run


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Builds and factorises H_r + δI: p² numbers of memory, p³/3 multiplications.

    Attributes:
        max_p: largest number of parameters to accept.
        remedy: what to say that would help when there are more.
    """

    max_p: int = 12000
    remedy: str = RAISE

    def inverse(self, run: Run, kind: Kind, damping: float | None) -> Factorised:
        """The factor of the damped matrix."""
        check_size(run.curvature.at.size, self.max_p, self.remedy)
        matrix = run.curvature.matrix(kind, self.max_p, labels_of(run, kind))
        return factorise(matrix, damping, kind, definite_kind(run.curvature.fitted.task))

    def work(self, prospect: Prospect, kind: Kind, own: bool) -> Work:
        """Building, factorising and solving, in double precision."""
        return exact_work(prospect, kind, self.max_p, self.remedy)
