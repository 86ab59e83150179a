"""No curvature at all."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from influx.engines.operators import Kind
from influx.engines.solver_plans import pass_work
from influx.planning import Prospect, Work
from influx.run import Run


@dataclass(frozen=True)
class Unit:
    """The identity in place of the inverse."""

    report: dict[str, float | str] = field(default_factory=dict)

    def solve(self, rhs: Tensor) -> Tensor:
        """The right-hand sides themselves."""
        return rhs

    def quadratic(self, rows: Tensor) -> Tensor:
        """Squared norms."""
        return rows.square().sum(1)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """H_r + δI taken for the identity: influence becomes the gradients' dot product over n."""

    def inverse(self, run: Run, kind: Kind, damping: float | None) -> Unit:
        """Nothing to prepare."""
        run.curvature  # noqa: B018 - every solver needs it declared
        return Unit()

    def work(self, prospect: Prospect, kind: Kind, own: bool) -> Work:
        """Nothing but the passes."""
        return pass_work(prospect)
