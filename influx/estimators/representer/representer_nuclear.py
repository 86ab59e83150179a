"""High-dimensional representers for the nuclear norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from influx.engines.refits import Regularised
from influx.engines.representers import add, add_own, decomposition, values_table
from influx.engines.sparse_heads import Nuclear, parts
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class NuclearRepresenter(Regularised):
    """What each training instance adds to the logit of a test instance's label, in a refitted last layer of low rank.

    Estimates: shares of the logit ⟨W, e_y f_jᵀ⟩ of label y = y_j at W = argmin (1/n) Σ ℓ(W f_i, y_i) + λ |W|_* with
        W = U Σ Vᵀ, through α_i = -(1/(λ n)) ∂ℓ/∂ŷ. Kernels: left (U Σ Uᵀ α_i)[y] (f_i·f_j); right α_i[y] (f_iᵀ V Σ Vᵀ
        f_j); half (U Σ^½ Uᵀ α_i)[y] (f_iᵀ V Σ^½ Vᵀ f_j); average of left and right. Each adds up to the refitted head's
        logit over i. For regression the explained value is the prediction times the sign of (y_j - prediction).
        Positive for proponents.
    Needs: learned features and a linear last layer.
    Cost: n + m forward passes, proximal steps of n · outputs · d and a small singular value decomposition each until
        the rank is known, n m products of d features; memory for n (d + outputs) numbers beside the result.
    Source: Tsai et al. 2023, arXiv:2305.20002; survey Eq. (48). Their matrix model ⟨Θ, X⟩ with X = e_y fᵀ; their code
        leaves out 1/(λ n) and sums left and right without the half.

    Attributes:
        penalty: λ; None takes penalty_share of the smallest λ for which all weights are zero.
        penalty_share: see penalty; between 0 and 1.
        targets: labels, or model_probs (the trained model's probabilities, its outputs for regression).
        bias: augment (a feature of constant 1, penalised like the others) or none.
        tolerance: residual of the optimum's conditions, in units of λ.
        max_steps: most proximal steps.
        kernel: half, left, right or average.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LINEAR_HEAD})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="representer",
        full="n",
        incremental="n",
        storage="0",
        assumptions="a last layer of low rank tells; it is refitted to an optimum",
        groups="additive",
        paper="Tsai et al. 2023",
    )

    kernel: Literal["half", "left", "right", "average"] = "half"

    def estimate(self, run: Run) -> Influence:
        """Refit the head, then one product of features, or two."""
        fitted, penalty, report = self.regularised(run, Nuclear())
        alpha = fitted.alpha(penalty)
        mine, theirs = fitted.explained()
        u, s, vt = parts(fitted.theta)
        values, own = run.zeros(), np.zeros(len(run.train))
        for left, right, scale in POWERS[self.kernel]:
            weighted = alpha if left == 0 else alpha @ (u * s**left) @ u.T
            f, g = ((x if right == 0 else (x @ vt.T * s**right) @ vt) for x in (fitted.f, fitted.g))
            add(values, weighted, fitted.f, g, theirs, scale)
            add_own(own, weighted, fitted.f, f, mine, scale)
        table, error = decomposition(run, fitted, values)
        return run.influence(
            values,
            scale=self.scale,
            self_influence=own,
            tables={"decomposition": table, "representer_values": values_table(run, alpha)},
            report=report | {"kernel": self.kernel, "rank": len(s), "reconstruction_error": error},
        )


# powers of the singular values on the side of the outputs and on that of the features, and the share of the sum
POWERS: dict[str, list[tuple[float, float, float]]] = {
    "left": [(1, 0, 1)],
    "right": [(0, 1, 1)],
    "half": [(0.5, 0.5, 1)],
    "average": [(1, 0, 0.5), (0, 1, 0.5)],
}
