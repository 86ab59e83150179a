"""TracInCP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.kernels import products
from influx.engines.similarity import Checkpointed, scale_of
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class TracInCP(Checkpointed):
    """TracIn over saved checkpoints.

    Estimates: Σ_c w_c ⟨∇L(z_i; θ_c), ∇L(z_j; θ_c)⟩, the first-order drop of test risk j due to steps on i.
        Positive for proponents. With ``weight=calibrated`` in loss units, otherwise only the order means
        something.
    Needs: checkpoints with their learning rates; per-instance gradients.
    Cost: C (n + m) gradients and C n m dot products; memory O(block + m) gradients' factors and n·m numbers.
    Source: Pruthi et al. 2020, arXiv:2002.08484, Eq. (1); survey Eq. (56). The learning rate is that of the step
        that leaves the checkpoint (survey); ``lr_at=prev`` is the original's. ``choose=loss_drop`` is its advice
        on checkpoints.

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
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n p C",
        incremental="n p C",
        storage="p C",
        assumptions="SGD-like updates",
        groups="additive",
        paper="Pruthi et al. 2020",
    )

    def estimate(self, run: Run) -> Influence:
        """Gradient dot products, weighted and summed over checkpoints."""
        return self.influence(run, products, scale=scale_of(self.weight, run.unlike_sgd))
