"""Gradient aggregated similarity (GAS)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from influx.engines.kernels import cosines
from influx.engines.similarity import Checkpointed, similarity_work
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

NOTE = "the cosine of a gradient with itself is 1, so self-influence cannot rank instances"


@dataclass(frozen=True, kw_only=True)
class GAS(Checkpointed):
    """TracInCP between unit gradients.

    Estimates: Σ_c w_c cos(∇L(z_i; θ_c), ∇L(z_j; θ_c)), similarity of direction whatever the instance's loss.
        Positive for proponents; only the order means something. An instance whose gradient is zero at a
        checkpoint contributes 0 there.
    Needs: checkpoints with their learning rates; per-instance gradients.
    Cost: as TracInCP.
    Source: Hammoudeh & Lowd 2022, arXiv:2201.10055; survey Eq. (68).

    Attributes:
        checkpoints: how many saved checkpoints to use; None uses all.
        choose: even (evenly spaced in training) or loss_drop (those at the saved intervals in which the mean
            test loss falls most; the whole test set then has a say in every column).
        lr_at: next, prev or segment_mean.
        weight: paper, calibrated or uniform.
        jackknife: give a standard error: how much the sum varies when one checkpoint after the other is left
            out. It measures the spread over checkpoints, not over trainings.
        precision: model, tf32 (on cuda) or bfloat16; the error that it makes is measured and reported.
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n p C",
        incremental="n p C",
        storage="p C",
        assumptions="SGD-like updates; direction matters, magnitude does not",
        groups="additive",
        paper="Hammoudeh & Lowd 2022",
    )

    def plan(self, prospect: Prospect) -> Work:
        """Gradients, products and norms at every checkpoint used."""
        return similarity_work(prospect, self, norms=1)

    def estimate(self, run: Run) -> Influence:
        """Gradient cosines, weighted and summed over checkpoints."""
        return self.influence(run, cosines, note=NOTE)
