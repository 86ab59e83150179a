"""TracIn-Last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.kernels import products
from influx.engines.similarity import Checkpointed, scale_of, similarity_work
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class TracInLast(Checkpointed):
    """TracInCP on the parameters of the last linear layer.

    Estimates: Σ_c w_c (f_i·f_j + 1)(r_i·r_j) with features f and output gradients r, the last layer's share of
        TracInCP. Positive for proponents; see TracInCP for scale.
    Needs: checkpoints with their learning rates; per-instance gradients; a linear last layer.
    Cost: C (n + m) gradients of one layer and C n m products of length features + outputs.
    Source: Pruthi et al. 2020, arXiv:2002.08484, section 3.6; Yeh et al. 2022 on its cancellation effect.

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

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS, Need.LINEAR_HEAD})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n p_last C",
        incremental="n p_last C",
        storage="p C",
        assumptions="SGD-like updates; the last layer tells",
        groups="additive",
        paper="Pruthi et al. 2020",
    )

    def plan(self, prospect: Prospect) -> Work:
        """Gradients and products at every checkpoint used."""
        return similarity_work(prospect, self, select="head")

    def estimate(self, run: Run) -> Influence:
        """Gradient dot products of the head, weighted and summed over checkpoints."""
        return self.influence(run, products, scale=scale_of(self.weight, run.unlike_sgd), select=run.head())
