"""Representer points by a local Jacobian expansion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from influx.engines.head_solvers import DENSE, solver, solving_work
from influx.engines.heads import Head, fill, head_at_end
from influx.engines.representers import Explained, explained
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

SHARE = 1e-4  # of the mean eigenvalue: the automatic damping
FAR = 0.1  # error of the sum, in the largest explained value, that calls for a warning
NO_SELF = f"above {DENSE} weights in the last layer every training instance's influence on itself is a solve of its own"


@dataclass(frozen=True, kw_only=True)
class RPSLJE:
    """What each training instance adds to the logit of a test instance's label, without a refit of the last layer.

    Estimates: (1/n) [Θ' f_j - s_jᵀ (∇L(z_i; Θ') + wd Θ')] at output y_j, with Θ' one step of gradient ascent on the
        mean risk from the trained last layer and s_j = (H_r + δI)⁻¹ (e_{y_j} ⊗ f_j) there. Over i the values add up to
        the trained logit of y_j, up to the square of the step where training reached an optimum. For regression the
        explained value is the prediction times the sign of (y_j - prediction). Positive for proponents.
    Needs: learned features and a linear last layer.
    Cost: as if_last_layer.
    Source: Sui, Wu & Sanner 2021 (NeurIPS), survey section 5.1.2.3. They treat one sigmoid output without a regulariser
        and do not damp. Apart from the part that is the same for all i, this is the last layer's influence function of
        the logit at Θ'.

    Attributes:
        lr: length of the step of gradient ascent.
        damping: δ; None means 1e-4 of the mean eigenvalue of H_r (heuristic).
        drop_constant: leave out the part that is the same for all training instances, so that values no longer add up
            to the logit. Self-influence always leaves it out: there it differs between instances.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LINEAR_HEAD})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="representer",
        full="n s² + s³",
        incremental="n s",
        storage="0",
        assumptions="the last layer tells; near a minimum",
        groups="additive",
        paper="Sui et al. 2021",
    )

    lr: float = 0.01
    damping: float | None = None
    drop_constant: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"estimator.lr must be positive and finite, got {self.lr}; 0.01 is usual")
        if self.damping is not None and not 0 <= self.damping < float("inf"):
            raise ConfigError(
                f"estimator.damping must be finite and not negative, got {self.damping}; use null for automatic"
            )

    def plan(self, prospect: Prospect) -> Work:
        """Features, the curvature and its solutions, one product with every training gradient."""
        return solving_work(prospect, own=2)

    def estimate(self, run: Run) -> Influence:
        """Step, solve once per test instance, then one product with the training gradients."""
        run.head()
        before, n = head_at_end(run.features, run.train, run.test), len(run.train)
        objective = before.objective
        ascent = self.lr * objective.mean_gradient(objective.outputs(before.theta))
        head = before.moved(before.theta + ascent)
        outputs = objective.outputs(head.theta)
        solving = solver(objective, outputs, self.damping, SHARE)
        residual = objective.residual(outputs)
        mine, theirs = explained(head, before.theta)
        values, direction = run.zeros(), _directions(theirs, head.classes)
        constant = theirs.of(head.test @ head.theta.T)
        for columns in head.pieces():
            solved = solving.solve(direction[columns, :, None] * head.test[columns, None])  # (k, C, q)
            fill(values[:, columns], residual, head.train, solved, -1 / n)
            constant[columns] -= (solved * (head.decay * head.theta)).sum((1, 2))
        total = values.sum(axis=0) + constant.cpu().numpy()
        if not self.drop_constant:
            values += (constant / n).cpu().numpy()
        own = solving.own(_directions(mine, head.classes), residual, head.train)
        logits = theirs.of(head.test @ before.theta.T).cpu().numpy()
        off, spread = float(np.abs(total - logits).max(initial=0.0)), float(np.abs(logits).max(initial=0.0))
        if off > FAR * spread:
            run.warn(
                f"the values miss the explained value by up to {off:.2g}, of {spread:.2g} at most: the last layer is "
                "far from a minimum of the training objective; train longer or with optimizer.weight_decay"
            )
        report = solving.report | self._report(run, before, head)
        return run.influence(
            values,
            scale=self.scale,
            self_influence=None if own is None else -(own / n).cpu().numpy(),
            self_influence_note=NO_SELF if own is None else "",
            report=report | {"reconstruction_error": off},
        )

    def _report(self, run: Run, before: Head, head: Head) -> dict[str, float]:
        """Gradient of the objective at the trained head, and what the step does to its mean risk."""
        objective = before.objective
        outputs = [objective.outputs(side.theta) for side in (before, head)]
        risks = [float(before.task.loss(z, before.y_train).mean()) for z in outputs]
        if risks[1] > 2 * risks[0]:
            run.warn(
                f"the step of gradient ascent raises the mean risk of the last layer from {risks[0]:.2g} to "
                f"{risks[1]:.2g}, an expansion around it says little; lower estimator.lr"
            )
        slope = before.doubts(run, objective.residual(outputs[0]))
        return {"gradient_norm": slope, "risk_before": risks[0], "risk_after": risks[1]}


def _directions(what: Explained, outputs: int) -> Tensor:
    """``(k, C)`` derivatives of the explained values with respect to the outputs."""
    made = torch.zeros(len(what.which), outputs, dtype=torch.float64, device=what.sign.device)
    return made.scatter_(1, what.which[:, None], what.sign[:, None])
