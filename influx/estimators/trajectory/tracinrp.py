"""TracInRP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.kernels import Projected
from influx.engines.projections import Kind
from influx.engines.similarity import Checkpointed, scale_of, similarity_work
from influx.engines.spread import INDEPENDENT, SHARED
from influx.engines.stored import Projections, Store, at_checkpoint
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Checkpoint
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class TracInRP(Checkpointed):
    """TracInCP between random projections of the gradients.

    Estimates: Σ_c w_c (P_c ∇L(z_i; θ_c))·(P_c ∇L(z_j; θ_c)) with random P_c (D, p) whose entries have variance 1/D,
        whose mean is TracInCP. Positive for proponents; see TracInCP for scale. The standard error is
        √(Σ_c w_c² (K_c² + |g_i|²|g_j|²) / D) with K_c = g_i·g_j, from the norms and the projected products.
        Self-influence needs no projection and is exact.
    Needs: checkpoints with their learning rates; per-instance gradients.
    Cost: C (n + m) gradients, C (n + m) p D operations to project them and C n m D for products; memory
        O(m D + block); C n D numbers on disk, which other projected methods read. Worth it only where gradients are
        compared more often than projected.
    Source: Pruthi et al. 2020, arXiv:2002.08484; survey section 5.2.1.3. There for gradients of every step, here for
        those of checkpoints.

    Attributes:
        checkpoints: how many saved checkpoints to use; None uses all.
        choose: even (evenly spaced in training) or loss_drop (those at the saved intervals in which the mean
            test loss falls most; the whole test set then has a say in every column).
        lr_at: next, prev or segment_mean.
        weight: paper, calibrated or uniform.
        jackknife: replace the projection's standard error by how much the sum varies when one checkpoint after the
            other is left out. It measures the spread over checkpoints, not over trainings.
        precision: model, tf32 (on cuda) or bfloat16; the error that it makes is measured and reported.
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        dim: D, numbers that a gradient is projected to; the relative error of self-similarity is about √(2/D).
        kind: gaussian; rademacher (signs) or sparse (hashed sums of coordinates, p operations instead of p D), whose
            standard error is then an upper bound; two_sided (products of projections of a layer's inputs and output
            gradients, the fastest, with a few times that variance and no standard error); or none.
        store: how gradients lie on disk: as they are (model), or in float16, half as large (a quarter of float64):
            rows divided by their largest number, off by about 2e-4 of their length.
        share: the same projection at every checkpoint; the errors then add up (upper bound).
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trajectory",
        full="n p D C",
        incremental="n D C",
        storage="p C + n D",
        assumptions="SGD-like updates",
        groups="additive",
        paper="Pruthi et al. 2020",
    )

    dim: int = 512
    kind: Kind = "gaussian"
    store: Store = "model"
    share: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.dim < 1:
            raise ConfigError(f"estimator.dim must be at least 1, got {self.dim}; set for example estimator.dim=512")

    def plan(self, prospect: Prospect) -> Work:
        """Gradients, projections and their products at every checkpoint used."""
        return similarity_work(prospect, self, dim=self.dim, kind=self.kind, store=self.store)

    def estimate(self, run: Run) -> Influence:
        """Products of projected gradients, weighted and summed over checkpoints."""
        size = run.gradients.at(run.final).size
        if self.dim >= size or self.kind == "none":
            run.warn(
                f"estimator.dim={self.dim} projects the {size} parameters to no fewer numbers: tracincp is cheaper "
                "and exact"
            )

        def at_step(checkpoint: Checkpoint) -> Projections:
            return at_checkpoint(run, checkpoint, self.kind, self.dim, shared=self.share, store=self.store)

        return self.influence(
            run,
            Projected(at_step, run.final, keep=self.precision == "model"),
            scale=scale_of(self.weight, run.unlike_sgd),
            spread=None if self.kind == "two_sided" else SHARED if self.share else INDEPENDENT,
            report={"dim": self.dim, "kind": self.kind},
        )
