"""Influence functions by a stochastic Neumann series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.solved import Solved
from influx.engines.solvers.lissa import LiSSA
from influx.influence import Scale
from influx.needs import Need
from influx.run import Card


@dataclass(frozen=True, kw_only=True)
class LiSSAInfluence(Solved):
    """Influence functions, solved by LiSSA.

    Estimates: (1/n) ∇L(z_j; θ)ᵀ (H_r + δI)⁻¹ ∇L(z_i; θ), with a standard error from the spread of independent runs
        (the bias of a series that is cut off is reported beside it). Loss units; positive for proponents.
    Needs: per-instance gradients and products with the curvature at the final parameters.
    Cost: repeats · depth products with the curvature of one batch, b p each, for all right-hand sides together.
    Source: Agarwal et al. 2017, arXiv:1602.03943; Koh & Liang 2017, arXiv:1703.04730, section 3. Here damping is δ
        itself; in their code it is δ over ``scale``. They keep the last iterate, ``averaged=false`` does.

    Attributes:
        curvature: ggn, hessian, fisher (the same as ggn for softmax and squared error), sampled_fisher or
            empirical_fisher.
        damping: δ; None means 0 where weight decay alone keeps H_r well conditioned, else a tenth of its mean
            eigenvalue (heuristic).
        self_influence: also compute each training instance's influence on itself (a solve for each).
        depth: steps per run.
        batch_size: instances per step; n or more makes the series deterministic.
        repeats: independent runs.
        lissa_scale: σ, at least half the largest eigenvalue of any batch's curvature; None finds one.
        averaged: average the second half of the iterates.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS, Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="b p per step",
        incremental="n p",
        storage="0",
        assumptions="stationary, positive curvature near θ",
        groups="additive",
        paper="Koh & Liang 2017",
    )

    self_influence: bool = False
    depth: int = 1000
    batch_size: int = 32
    repeats: int = 4
    lissa_scale: float | None = None
    averaged: bool = True

    @property
    def solved_by(self) -> LiSSA:
        """A stochastic series."""
        return LiSSA(
            depth=self.depth,
            batch_size=self.batch_size,
            repeats=self.repeats,
            lissa_scale=self.lissa_scale,
            averaged=self.averaged,
        )
