"""FastIF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines.inverses import Inverse, Solver
from influx.engines.operators import Kind, check_curvature
from influx.engines.pruned import NOTE, Pruned
from influx.engines.solved import UNSOLVED
from influx.engines.solvers.choice import Choice, SolverName
from influx.engines.solvers.lissa import LiSSA
from influx.engines.subsets import some
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

GAPS = "each test instance has candidates of its own, and training instances no value for the other test instances"
REMEDY = "set a larger estimator.batch_size, estimator.curvature={kind} or estimator.solver=exact"


@dataclass(frozen=True, kw_only=True)
class FastIF:
    """FastIF: influence functions of each test instance's nearest neighbours, with few and short LiSSA runs.

    Estimates: (1/n) ∇L(z_j; θ)ᵀ (H_r + δI)⁻¹ ∇L(z_i; θ) for the ``candidates`` training instances i nearest to j by
        the inputs of the last linear layer (L2), and NaN for the others, which are not computed. Loss units; positive
        for proponents. The report has the recall: the share of the most influential training instances, of either
        sign, that are candidates of a few audited test instances.
    Needs: per-instance gradients and products with the curvature at the final parameters; learned features.
    Cost: features and n m d distances; repeats · depth products with the curvature of one batch; gradients of all
        instances that are candidates of some test instance. The audit takes the gradients of the others as well;
        ``audited=0`` leaves it out.
    Source: Guo et al. 2021, arXiv:2012.15781, sections 3.1-3.3, who publish the opposite sign without 1/n. Their
        damping 5e-3 at scale 1e4 is δ = 50; here δ is itself.

    Attributes:
        candidates: training instances per test instance; more than there are means all.
        curvature: ggn, hessian, fisher (the same as ggn for softmax and squared error), sampled_fisher or
            empirical_fisher.
        damping: δ; None means 0 where weight decay alone keeps H_r well conditioned, else a tenth of its mean
            eigenvalue (heuristic).
        solver: lissa with the settings below, or auto, exact, cg, arnoldi, ekfac, datainf or identity with their own
            estimators' defaults.
        depth: steps per run of LiSSA.
        batch_size: instances per step.
        repeats: independent runs, whose spread is the standard error.
        audited: test instances, drawn at random, on which the recall is measured.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE, Need.FEATURES})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE, "joint": GAPS, "ranking": GAPS}
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="n d + b p per step + k p",
        incremental="n d + k p",
        storage="n d",
        assumptions="stationary, influential instances have near features",
        groups="no",
        paper="Guo et al. 2021",
    )

    candidates: int = 100
    curvature: Kind = "ggn"
    damping: float | None = None
    solver: SolverName = "lissa"
    depth: int = 1000
    batch_size: int = 32
    repeats: int = 2
    audited: int = 5

    def __post_init__(self) -> None:
        """Check ranges."""
        check_curvature(self.curvature, self.damping)
        Choice(self.solver)
        self.solved_by  # noqa: B018 - checks its own
        if self.candidates < 1:
            raise ConfigError(f"estimator.candidates must be at least 1, got {self.candidates}; use for example 100")
        if self.audited < 0:
            raise ConfigError(f"estimator.audited must not be negative, got {self.audited}; use 0 for no audit")

    @property
    def solved_by(self) -> Solver:
        """LiSSA with these options, or another solver by name."""
        if self.solver == "lissa":
            return LiSSA(depth=self.depth, batch_size=self.batch_size, repeats=self.repeats, remedy=REMEDY)
        return Choice(self.solver)

    def plan(self, prospect: Prospect) -> Work:
        """The solves, distances, and gradients of all instances."""
        n, m = len(prospect.train), len(prospect.test)
        d = prospect.net.head / prospect.problem.data.n_outputs
        distances = Work(flops=4.0 * n * m * d, numbers=3.0 * n * m, compared=n * m * np.log2(max(n, 2)))
        return distances + self.solved_by.work(prospect, self.curvature, False)

    def estimate(self, run: Run) -> Influence:
        """Find candidates, solve for the test gradients, then products with the candidates' gradients."""
        n = len(run.train)
        if self.candidates > n:
            run.warn(
                f"estimator.candidates={self.candidates} is more than the {n} training instances; all are candidates"
            )
        pruned = Pruned(run, self._inverse(run), self._columns(run))
        influence = pruned.influence(min(self.candidates, n), self.curvature)
        left = float(influence.report.get("residual", 0.0))
        if self.solver == "lissa" and left > UNSOLVED:
            run.warn(
                f"LiSSA left a relative residual of up to {left:.2g}, so that ranks suffer; raise estimator.depth, "
                "estimator.batch_size or estimator.damping, or set estimator.solver=cg"
            )
        return influence

    def _inverse(self, run: Run) -> Inverse:
        inverse = self.solved_by.inverse(run, self.curvature, self.damping)
        inverse.report.setdefault("solver", self.solver)
        return inverse

    def _columns(self, run: Run) -> NDArray[np.int64]:
        """Audited test instances, whatever their order."""
        rows = np.arange(len(run.test))
        return some(run.test.ids, rows, self.audited, run.drawn("audited test instances"))
