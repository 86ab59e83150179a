"""Influence functions of the last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from influx.engines.head_solvers import DENSE, solver, solving_work
from influx.engines.heads import fill, head_at_end
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

SHARE = 1e-3  # of the mean eigenvalue: the automatic damping
COMPARED = 256  # training instances on which the whole gradient is measured
LITTLE = 0.3  # share of the gradient's norm in the last layer that calls for a warning
NO_SELF = f"above {DENSE} weights in the last layer every training instance's influence on itself is a solve of its own"


@dataclass(frozen=True, kw_only=True)
class LastLayerInfluence:
    """Influence functions of the last linear layer, whose curvature is exact and cheap.

    Estimates: (1/n) ∇L(z_j; W)ᵀ (H_r + δI)⁻¹ ∇L(z_i; W) over the weights W and the bias of the last layer, with the
        other layers held fixed: the first-order change of test risk j when the weight of i in the mean objective goes
        from 1 to 0. Loss units; positive for proponents. Equal to if_exact at equal
        damping for a model of one linear layer.
    Needs: learned features, a linear last layer, and gradients of all parameters for a few instances (diagnostics).
    Cost: n + m forward passes; with s = outputs · (d + 1) weights, n s² + s³/3 multiplications for s up to 8000, and
        above it m conjugate gradient solves of n s each step. Memory n (d + outputs) + s².
    Source: Koh & Liang 2017, arXiv:1703.04730; Barshan et al. 2020, arXiv:2003.11630, on the last layer only; survey
        Eq. (28)-(35), with the regulariser in H_r. The published sign, of upweighting, is turned, and 1/n is kept.

    Attributes:
        damping: δ; None means a thousandth of the mean eigenvalue of H_r (heuristic). Softmax without weight decay is
            singular and needs some.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LINEAR_HEAD, Need.GRADIENTS})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="influence functions",
        full="n s² + s³",
        incremental="n s",
        storage="0",
        assumptions="stationary; the last layer tells",
        groups="additive",
        paper="Barshan et al. 2020",
    )

    damping: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.damping is not None and not 0 <= self.damping < float("inf"):
            raise ConfigError(
                f"estimator.damping must be finite and not negative, got {self.damping}; use null for automatic"
            )

    def plan(self, prospect: Prospect) -> Work:
        """Features, the curvature and its solutions, one product with every training gradient."""
        return solving_work(prospect, own=1) + Work(gradients=float(min(len(prospect.train), COMPARED)))

    def estimate(self, run: Run) -> Influence:
        """Solve for as many test gradients as memory takes, then one product with the training gradients."""
        run.head()
        head, n = head_at_end(run.features, run.train, run.test), len(run.train)
        objective = head.objective
        outputs = objective.outputs(head.theta)
        solving = solver(objective, outputs, self.damping, SHARE)
        residual = objective.residual(outputs)
        values = run.zeros()
        for columns in head.pieces():
            fill(values[:, columns], residual, head.train, solving.solve(head.test_gradients(columns)), 1 / n)
        own = solving.own(residual, residual, head.train)
        norms = residual.norm(dim=1) * head.train.norm(dim=1)  # of the last layer's gradients
        slope = head.doubts(run, residual)
        report = solving.report | {"gradient_norm": slope, "last_layer_share": self._share(run, norms)}
        return run.influence(
            values,
            self_influence=None if own is None else (own / n).cpu().numpy(),
            self_influence_note=NO_SELF if own is None else "",
            report=report,
        )

    def _share(self, run: Run, norms: torch.Tensor) -> float:
        """Mean share of a training gradient's norm in the last layer, with a warning where it is small."""
        rows = np.unique(np.linspace(0, len(run.train) - 1, min(len(run.train), COMPARED)).astype(np.int64))
        whole = run.gradients.at(run.final).squares(run.train.take(rows)).sqrt()
        mine = norms[torch.from_numpy(rows).to(norms.device)]
        some = whole > 0
        share = float((mine[some] / whole[some]).clamp(max=1).mean()) if bool(some.any()) else 1.0
        if share < LITTLE:
            run.warn(
                f"only {share:.0%} of a training gradient's norm is in the last layer, which is all that is looked at; "
                "if_exact or tracincp look at all layers"
            )
        return share
