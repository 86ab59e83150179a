"""Layer-wise gradient aggregated similarity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from influx.engines.kernels import LayerCosines, Unit
from influx.engines.similarity import Checkpointed, similarity_work
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

NOTE = "the cosine of a gradient with itself is 1 in every layer, so self-influence cannot rank instances"


@dataclass(frozen=True, kw_only=True)
class LayerwiseGAS(Checkpointed):
    """GAS layer by layer, so that no layer outweighs the others.

    Estimates: Σ_c w_c Σ_l cos(∇_l L(z_i; θ_c), ∇_l L(z_j; θ_c)) over layers l. Positive for proponents; only the
        order means something. A layer in which an instance has no gradient but for rounding contributes 0.
    Needs: checkpoints with their learning rates; per-instance gradients.
    Cost: as TracInCP, and C n m numbers for every layer.
    Source: Hammoudeh & Lowd 2022, arXiv:2201.10055; survey Eq. (68). Layers are parameter tensors as in the
        authors' code, weight and bias apart; ``unit=module`` takes them together.

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
        unit: what a layer is: a parameter tensor, or all parameters of one module.
        average: mean over layers instead of the sum.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n p C",
        incremental="n p C",
        storage="p C",
        assumptions="SGD-like updates; direction matters in every layer alike",
        groups="additive",
        paper="Hammoudeh & Lowd 2022",
    )

    unit: Unit = "tensor"
    average: bool = False

    def plan(self, prospect: Prospect) -> Work:
        """Gradients, and products and norms of every layer, at every checkpoint used."""
        layers = prospect.net.depth * (2 if self.unit == "tensor" else 1)
        return similarity_work(prospect, self, norms=layers)

    def estimate(self, run: Run) -> Influence:
        """Gradient cosines, summed over layers, weighted and summed over checkpoints."""
        return self.influence(run, LayerCosines(self.unit, self.average), note=NOTE)
