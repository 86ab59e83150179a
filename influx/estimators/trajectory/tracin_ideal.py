"""Ideal TracIn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from influx.engines.curves import Curves
from influx.engines.path import check_batches, recorded
from influx.engines.stepwise import Stepwise
from influx.engines.visits import exact
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class IdealTracIn(Stepwise):
    """Idealised TracIn, by forward passes before and after every step.

    Estimates: Σ_t∋i (L(z_j; θ_t) - L(z_j; θ_t+1)) / b_t, the fall of test risk j over the steps that visit i. Exact for
        batches of one; a larger batch shares its fall equally, since a step does not tell its members apart. Loss
        units; positive for proponents. Summed over i it is the whole fall of the risk.
    Needs: every step of the training (replayed).
    Cost: T m forward passes; memory n·m numbers. No gradients.
    Source: Pruthi et al. 2020, arXiv:2002.08484, section 3.1; survey Eq. (51)-(52).

    Attributes:
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        batch_split: equal (the survey's naive fix for batches of several), or error to refuse them.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="m p T",
        incremental="p T",
        storage="p C",
        assumptions="batches of one",
        groups="additive",
        paper="Pruthi et al. 2020",
    )

    batch_split: Literal["equal", "error"] = "equal"

    def plan(self, prospect: Prospect) -> Work:
        """A forward pass of all test instances after every step."""
        check_batches(recorded(prospect), self.batch_split)
        net, n, m = prospect.net, len(prospect.train), len(prospect.test)
        return Work(
            flops=2.0 * net.macs * (net.steps * m + 2 * net.visits),
            numbers=3.0 * net.visits * m,
            bytes=8.0 * n * m,
            formula=f"{net.steps} steps x {m} forward passes",
        )

    def estimate(self, run: Run) -> Influence:
        """Losses along the replayed training."""
        path = run.path
        largest = check_batches(path.fitted.recipe, self.batch_split)
        if largest > 1:
            run.warn(
                f"a step shows what its batch of up to {largest} did together: its members share the change equally"
            )

        def fill(values: NDArray[np.float64], own: NDArray[np.float64], curves: Curves) -> dict[str, Any]:
            fall = exact(path, run.train, run.test, values, own, curves)
            return {"fall_of_test_risk": float(fall.mean())}

        return self.filled(run, fill)
