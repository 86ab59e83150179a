"""TRAK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.projected import Projected
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class Trak(Projected):
    """Influence of a linear model in the projected gradients of the margin, averaged over models.

    Estimates: mean_k Q_k,i · mean_k φ_jᵀ (ΦᵀΦ + λI)⁻¹ φ_i with φ = P ∇f(z; θ_k) and Q = -∂L/∂f. For classes f is the
        margin log p_y / (1 - p_y) and Q is 1 - p_y; for regression minus the absolute error, with Q the absolute error;
        for densities minus the risk, with Q = 1. Positive for proponents: how much i raises the margin of j, up to a
        factor. With R the matrix of second derivatives of L in f, ΦᵀRΦ, it is the influence function of a linear
        logistic or linear regression with weight decay λ / n, exactly. Ranks only.
        Self-influence is the leverage of i times its Q (with ``to_loss`` Q²). The standard error is that of the mean
        over models; of one model over its checkpoints, which are not independent, so that it is not that over
        trainings.
    Needs: per-instance gradients of the final model; saved parameters for more than one checkpoint, whatever their
        learning rates; the training recipe for more than one model.
    Cost: K - 1 trainings, K C (n + m) gradients and projections (p D operations each, see ``kind``), and per regression
        n D² (or n² D) + min(n, D)³ / 3; K C n D numbers on disk, min(n, D)² + m D in memory.
    Source: Park et al. 2023, arXiv:2303.14186, eq. 13, and its code for the separate averages. There models are trained
        on half of the data each (see ``subset``), scores are in half precision and the matrix is not damped; here in
        double.

    Attributes:
        dim: D, numbers that a gradient is projected to.
        kind: sparse (hashed sums of coordinates: p operations, and no more variance than signs); rademacher (signs) or
            gaussian, as published, of p D operations; two_sided (products of projections of a layer's inputs and output
            gradients, the fastest); or none.
        store: how gradients lie on disk: as they are (model), or in float16, half as large (a quarter of float64):
            rows divided by their largest number, off by about 2e-4 of their length.
        models: K, trainings with initialisations and batch orders of their own; the first is the problem's.
        subset: share of the training set, drawn at random for each model, that it is trained on: 0.5 as published, with
            many models. Gradients are those of all instances. Below 1 the problem's own model is not one of them.
        checkpoints: of each, evenly spaced in training, the last among them; they are averaged over like models.
        damping: λ; None means ten times the mean eigenvalue of ΦᵀΦ (its trace over the least of n, D and p). Of powers
            of ten this has the best linear datamodeling score on three data sets, whichever of four is left out to
            judge it; some problems want more. The paper takes 0, for n far above D.
        self_influence: also compute each training instance's influence on itself.
        with_r: keep R, which the paper leaves out.
        to_loss: multiply by the mean Q of test instances (in self-influence, of i), so that values are changes of risk
            up to a factor.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="projected",
        full="K n (p D + D²)",
        incremental="K n D",
        storage="K (p + n D)",
        assumptions="linear in the parameters around each model",
        groups="additive",
        paper="Park et al. 2023",
    )

    with_r: bool = False
    to_loss: bool = False

    def plan(self, prospect: Prospect) -> Work:
        """Trainings, projected gradients and regressions."""
        return self.work(prospect, self.with_r)

    def estimate(self, run: Run) -> Influence:
        """One regression for every model and checkpoint."""
        return self.attributed(run, "margin", weigh=True, with_r=self.with_r, to_loss=self.to_loss)
