"""Solvers by name, and the choice of one by size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from influx.engines.inverses import Inverse, Solver
from influx.engines.operators import Kind
from influx.engines.solver_plans import CG_ITERATIONS
from influx.engines.solvers.arnoldi import Arnoldi
from influx.engines.solvers.cg import ConjugateGradients
from influx.engines.solvers.datainf import DataInf
from influx.engines.solvers.ekfac import EKFAC
from influx.engines.solvers.exact import Exact
from influx.engines.solvers.identity import Identity
from influx.engines.solvers.lissa import LiSSA
from influx.errors import ConfigError
from influx.planning import Prospect, Work
from influx.run import Run

SolverName = Literal["auto", "exact", "cg", "lissa", "arnoldi", "ekfac", "datainf", "identity"]
SOLVERS: dict[str, Solver] = {
    "exact": Exact(remedy="set estimator.solver=cg"),
    "cg": ConjugateGradients(remedy="raise estimator.damping or set another estimator.solver"),
    "lissa": LiSSA(remedy="set estimator.curvature={kind} or estimator.solver=exact"),
    "arnoldi": Arnoldi(),
    "ekfac": EKFAC(),
    "datainf": DataInf(),
    "identity": Identity(),
}
AFFORDABLE = 2e14  # operations that conjugate gradients may take before EK-FAC is chosen: minutes to an hour


@dataclass(frozen=True)
class Choice:
    """A solver by name, with the defaults of its own estimator.

    ``auto`` takes the exact matrix or conjugate gradients, whichever needs fewer operations, unless both take too many:
    then EK-FAC. ``all_rows`` says that every training instance needs a solve too.
    """

    name: SolverName
    all_rows: bool = False

    def __post_init__(self) -> None:
        """Check the name."""
        if self.name not in get_args(SolverName):
            raise ConfigError(f"estimator.solver must be one of {', '.join(get_args(SolverName))}, got {self.name}")

    def chosen(self, n: int, m: int, p: int, kind: Kind = "ggn") -> str:
        """The name, for n training and m test instances and p parameters; EK-FAC has no Hessian."""
        if self.name != "auto":
            return self.name
        solves = m + (n if self.all_rows else 0)
        exact, cg = 2.0 * n * p**2 + p**3, 12.0 * CG_ITERATIONS * solves * n * p
        if p <= Exact().max_p and exact <= cg:
            return "exact"
        return "cg" if cg <= AFFORDABLE or kind == "hessian" else "ekfac"

    def inverse(self, run: Run, kind: Kind, damping: float | None) -> Inverse:
        """That of the chosen solver, whose name is in its report."""
        return solver_named(self.chosen(len(run.train), len(run.test), run.curvature.at.size, kind), run, kind, damping)

    def work(self, prospect: Prospect, kind: Kind, own: bool) -> Work:
        """What the chosen solver takes."""
        n, m, p = len(prospect.train), len(prospect.test), prospect.net.parameters
        name = self.chosen(n, m, p, kind)
        return SOLVERS[name].work(prospect, _fitting(name, kind), own or self.all_rows)


def solver_named(name: str, run: Run, kind: Kind, damping: float | None) -> Inverse:
    """The inverse of a solver, which says in its report what it is of."""
    fitting = _fitting(name, kind)
    found = SOLVERS[name].inverse(run, fitting, damping)
    found.report.update(solver=name, curvature="none" if name == "identity" else fitting)
    return found


def _fitting(name: str, kind: Kind) -> Kind:
    """DataInf knows one curvature only."""
    return "empirical_fisher" if name == "datainf" else kind
