"""D-TRAK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from influx.engines.outputs import Output, check_errors
from influx.engines.projected import Projected
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class DTrak(Projected):
    """TRAK's regression on gradients of another function of the outputs, without weights.

    Estimates: mean_k φ_jᵀ (ΦᵀΦ + λI)⁻¹ φ_i with φ = P ∇h(outputs; θ_k), where h is deliberately not the risk. An
        association score without a sign in terms of risk: large where i and j pull the same parameters. Ranks only.
        With output=margin it is TRAK with Q = 1. Where the risk is a mean over latent draws, so is the gradient, before
        it is projected.
    Needs: per-instance gradients of the final model; saved parameters for more than one checkpoint, whatever their
        learning rates; the training recipe for more than one model.
    Cost: as TRAK.
    Source: Zheng et al. 2024, arXiv:2311.00500, sections 3 and 4. There the outputs are a diffusion model's predicted
        noise, averaged over timesteps, D = 32768, and λ is chosen by the linear datamodeling score.

    Attributes:
        dim: D, numbers that a gradient is projected to.
        kind: as of TRAK.
        store: how gradients lie on disk: as they are (model), or in float16, half as large (a quarter of float64):
            rows divided by their largest number, off by about 2e-4 of their length.
        models: K, trainings with initialisations and batch orders of their own; the first is the problem's.
        subset: share of the training set that each of them is trained on, as of TRAK.
        checkpoints: of each, evenly spaced in training, the last among them; they are averaged over like models.
        damping: λ; None means ten times the mean eigenvalue of ΦᵀΦ, as chosen for TRAK (see there).
        self_influence: also compute each training instance's score with itself.
        output: h: square (mean of squares), mean, l1 (mean size), l2 (length), linf (largest size) of the outputs,
            loss, margin, or weighted_mse (squared errors of the outputs against labels, one of them 1, or targets). The
            weights of the latter are those of a diffusion model's timesteps: without them they are one factor, which
            damping relative to the eigenvalues takes out. A density model's only output is its risk, with weights of
            its own in it, which loss and weighted_mse both are; the latter is refused where it is no sum of squared
            errors: for texts, binary features and losses of your own.
        sign: unsigned, the only one there is: values say nothing of who helps and who harms.
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
        paper="Zheng et al. 2024",
    )

    output: Output = "square"
    sign: Literal["unsigned"] = "unsigned"

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.output not in get_args(Output):
            raise ConfigError(f"estimator.output must be one of {', '.join(get_args(Output))}, got {self.output!r}")
        if self.sign != "unsigned":
            raise ConfigError(
                f"estimator.sign must be unsigned, got {self.sign!r}: scores are no changes of the risk; choose "
                "estimator=trak for scores that are"
            )

    def plan(self, prospect: Prospect) -> Work:
        """Trainings, projected gradients and regressions.

        Raises:
            IncompatibleError: see ``check_errors``.
        """
        check_errors(self.output, prospect.problem)
        return self.work(prospect, weighted=False)

    def estimate(self, run: Run) -> Influence:
        """One regression for every model and checkpoint."""
        return self.attributed(run, self.output, report={"output": self.output, "sign": "association, not of the risk"})
