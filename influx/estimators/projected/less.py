"""LESS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from influx.engines.kernels import UpdateCosines
from influx.engines.projections import Kind
from influx.engines.similarity import Checkpointed, similarity_work
from influx.engines.stored import Projections, Store, at_checkpoint
from influx.engines.updates import Updates
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Checkpoint
from influx.run import Card, Run

WrittenKind = Literal["gaussian", "rademacher", "sparse", "none"]


@dataclass(frozen=True, kw_only=True)
class Less(Checkpointed):
    """Cosines of test gradients with the updates that an optimizer would make of training gradients.

    Estimates: Σ_c w_c cos(P_c ∇L(z_j; θ_c), P_c Γ_i) with Γ_i the optimizer's update at checkpoint c, its moments as
        recorded there, if ∇L(z_i; θ_c) were the gradient of the next batch (Adam's m̂ / (√v̂ + eps); of SGD with
        momentum the momentum and the gradient). Positive for proponents. Ranks only. Self-influence is the cosine of an
        instance's own gradient with its update, not projected.
    Needs: checkpoints with the optimizer's state and, unless weight is uniform, their learning rates; per-instance
        gradients. A uniform sum takes the one checkpoint of a model that was trained elsewhere.
    Cost: C (n + m) gradients written out, C n updates, their projections (p operations with kind=sparse, p D otherwise)
        and C n m D for products; C n D numbers on disk.
    Source: Xia et al. 2024, arXiv:2402.04333, sections 2 and 3, on all parameters instead of adapters. Weight decay is
        left out of updates. By plain SGD it is a projected GAS.

    Attributes:
        checkpoints: how many saved checkpoints to use; None uses all.
        choose: even (evenly spaced in training) or loss_drop (those at the saved intervals in which the mean
            test loss falls most; the whole test set then has a say in every column).
        lr_at: next, prev or segment_mean.
        weight: paper, calibrated or uniform.
        jackknife: also compute how much the sum varies when one checkpoint after the other is left out, as its standard
            error.
        precision: model, tf32 (on cuda) or bfloat16; the error that it makes is measured and reported.
        curve_tests: of how many test instances, the first ones, to keep when their strongest proponents and opponents
            were influential.
        dim: D, numbers that gradients and updates are projected to.
        kind: sparse (hashed sums of coordinates), rademacher (signs), gaussian or none.
        store: how gradients lie on disk: as they are (model), or in float16, half as large (a quarter of float64):
            rows divided by their largest number, off by about 2e-4 of their length.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="projected",
        full="n p C",
        incremental="n D C",
        storage="p C + n D C",
        assumptions="small steps along one update",
        groups="additive",
        paper="Xia et al. 2024",
    )

    dim: int = 8192
    kind: WrittenKind = "sparse"
    store: Store = "model"

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.dim < 1:
            raise ConfigError(f"estimator.dim must be at least 1, got {self.dim}; set for example estimator.dim=8192")

    def plan(self, prospect: Prospect) -> Work:
        """Gradients, updates, projections and their products at every checkpoint used.

        Raises:
            IncompatibleError: the checkpoints came without the optimizer's moments.
        """
        if getattr(prospect.problem.learner, "lacks_moments", False):
            raise IncompatibleError(
                "estimator=less needs the optimizer's moments at every checkpoint, which these do not have; record the "
                "training by influx's recorders with moments=True, choose estimator=tracinrp, or say optimizer=sgd "
                "without momentum if that was it"
            )
        kind: Kind = self.kind
        work = similarity_work(prospect, self, dim=self.dim, kind=kind, store=self.store)
        written = 12.0 * prospect.net.parameters * len(prospect.train) * work.gradients
        return work + Work(numbers=written / (len(prospect.train) + len(prospect.test)), formula="updates")

    def estimate(self, run: Run) -> Influence:
        """Cosines at every checkpoint, weighted and summed."""
        fitted = run.gradients.fitted

        def at_step(checkpoint: Checkpoint) -> Projections:
            projections = at_checkpoint(run, checkpoint, self.kind, self.dim, "loss", store=self.store)
            updates = Updates.at(fitted.recipe.optimizer, fitted.state(checkpoint.step))
            return replace(projections, change=updates, told=projections.told | {"change": "update"})

        kernel = UpdateCosines(at_step, run.final, keep=self.precision == "model")
        return self.influence(run, kernel, report={"dim": self.dim, "kind": self.kind})
