"""Influence functions with the curvature of every layer in a Kronecker eigenbasis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influx.engines.blocks import Strategy
from influx.engines.solved import Solved
from influx.engines.solvers.ekfac import EKFAC
from influx.influence import Scale
from influx.needs import Need
from influx.run import Card


@dataclass(frozen=True, kw_only=True)
class EKFACInfluence(Solved):
    """Influence functions, solved layer by layer in the eigenbasis of Kronecker factors.

    Estimates: (1/n) Σ_l ∇_l L(z_j; θ)ᵀ (Ĥ_l + δ_l I)⁻¹ ∇_l L(z_i; θ), where Ĥ_l is diagonal in the eigenbasis of layer
        l's Kronecker factors, plus weight decay. Loss units; positive for proponents. For a linear model and squared
        error it is exact influence at the same damping (the two choose another when none is given); elsewhere it loses
        what is between layers and off those diagonals, the more so the smaller δ (``whole`` brings back the latter).
        A side of a layer with more than 8,000 numbers keeps its own basis. ``if_cg`` solves the same system to any
        accuracy, in some ten to forty products with the curvature.
    Needs: curvature at the final parameters, layer by layer.
    Cost: two passes over the training set for each output (for each sampled label with ``sampled_fisher``), a third one
        with n m p multiply-adds for influence, and a decomposition of d_in³ + d_out³ per layer, in the precision of the
        model from 2,000 parameters on; memory d_in² + d_out² + d_in d_out per layer, whatever n.
    Source: Grosse et al. 2023, arXiv:2308.03296; George et al. 2018, arXiv:1806.03884. They sample
        labels and leave out norms and embeddings; here the expectation over labels is taken, and nothing is left out.

    Attributes:
        curvature: ggn (or fisher, the same), sampled_fisher or empirical_fisher.
        damping: δ, the same in all layers; None means a tenth of each layer's mean eigenvalue (heuristic).
        self_influence: also compute each training instance's influence on itself.
        strategy: ekfac, kfac (eigenvalues from the factors alone, one pass less) or diagonal.
        samples: labels per instance with curvature=sampled_fisher.
        max_examples: training instances that the curvature is estimated from; null takes all.
        whole: weights with at most so many numbers, their bias included, get their exact matrix; null
            means 1,500 for ekfac and 0 (as published) for the others.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.CURVATURE})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="n p per output + layers' d³",
        incremental="n p",
        storage="layers' d²",
        assumptions="stationary, layers independent, Kronecker factors",
        groups="additive",
        paper="Grosse et al. 2023",
    )

    strategy: Strategy = "ekfac"
    samples: int = 1
    max_examples: int | None = None
    whole: int | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.solved_by.check(self.curvature)

    @property
    def solved_by(self) -> EKFAC:
        """Layer by layer."""
        return EKFAC(strategy=self.strategy, samples=self.samples, max_examples=self.max_examples, whole=self.whole)
