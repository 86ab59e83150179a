"""Renormalised TracIn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from influx.engines.stepwise import Stepwise, check_every, visit_work
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

NOTE = "the cosine of a gradient with itself is 1: self-influence only counts visits and cannot rank instances"


@dataclass(frozen=True, kw_only=True)
class RenormalisedTracIn(Stepwise):
    """TracIn between unit gradients, at the steps that visit an instance.

    Estimates: Σ_t∋i (η_t/b_t) cos(∇L(z_i; θ_t), ∇L(z_j; θ_t)), so that instances with large risks do not outweigh the
        others. Positive for proponents; only the order means something. A zero gradient contributes 0.
    Needs: every step of the training (replayed); per-instance gradients.
    Cost: as TracIn.
    Source: Hammoudeh & Lowd 2022, arXiv:2201.10055; survey Eq. (67)-(69). The test gradient is normalised too.

    Attributes:
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        every: use one step of so many, counted as often.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY, Need.GRADIENTS})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="(b + m) p T",
        incremental="p T",
        storage="p C",
        assumptions="plain SGD steps; direction matters, magnitude does not",
        groups="additive",
        paper="Hammoudeh & Lowd 2022",
    )

    every: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_every(self.every)

    def plan(self, prospect: Prospect) -> Work:
        """Gradients of every batch and of all test instances at its step."""
        return visit_work(prospect, self.every)

    def estimate(self, run: Run) -> Influence:
        """Gradient cosines at every visit."""
        return self.visited(run, every=self.every, unit=True, note=NOTE)
