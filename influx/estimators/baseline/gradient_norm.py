"""Gradient norm as a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class GradientNorm:
    """Norm of the instance's gradient at the final parameters, the same for every test instance.

    Estimates: nothing; ‖∇L(z_i; θ)‖ as a score, the confounder of unnormalised gradient methods.
    Needs: per-instance gradients.
    Cost: n gradient norms.
    Source: survey section 5.3.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="baseline", full="n p", incremental="1", storage="0", assumptions="none", groups="additive", paper="-"
    )

    def plan(self, prospect: Prospect) -> Work:
        """One gradient per training instance."""
        n = len(prospect.train)
        return Work(gradients=float(n), flops=6.0 * prospect.net.macs * n, formula=f"{n} gradients")

    def estimate(self, run: Run) -> Influence:
        """Every column is the gradient norm."""
        norm = run.gradients.at(run.final).squares(run.train).sqrt().cpu().numpy()
        values = np.repeat(norm[:, None], len(run.test), axis=1)
        return run.influence(values, scale="rank", self_influence=norm)
