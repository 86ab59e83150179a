"""High-dimensional representers for the l1 norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influx.engines.refits import Regularised
from influx.engines.representers import add, add_own, decomposition, values_table
from influx.engines.sparse_heads import L1
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class L1Representer(Regularised):
    """What each training instance adds to the logit of a test instance's label, in a refitted sparse last layer.

    Estimates: α_i[y_j] Σ_d |W_{y_j d}| f_id f_jd with α_i = -(1/(λ n)) ∂ℓ/∂ŷ at W = argmin (1/n) Σ ℓ(W f_i, y_i) +
        λ Σ |W| for the trained net's features f. Features without weight do not count. Over i the values add up to the
        refitted head's logit of label y_j. With an even number of classes W may not be unique; then the midpoint of
        each feature's two middle weights is 0. For regression the explained value is the prediction times the sign of
        (y_j - prediction). Positive for proponents.
    Needs: learned features and a linear last layer.
    Cost: n + m forward passes, proximal steps of n · outputs · d each until the weights that are left are known,
        n m products of d features; memory for n (d + outputs) numbers beside the result.
    Source: Tsai et al. 2023, arXiv:2305.20002; survey Eq. (48). Their code leaves out 1/(λ n); features are used as
        they are, without standardisation.

    Attributes:
        penalty: λ; None takes penalty_share of the smallest λ for which all weights are zero.
        penalty_share: see penalty; between 0 and 1.
        targets: labels, or model_probs (the trained model's probabilities, its outputs for regression).
        bias: augment (a feature of constant 1, penalised like the others) or none.
        tolerance: residual of the optimum's conditions, in units of λ.
        max_steps: most proximal steps.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LINEAR_HEAD})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="representer",
        full="n",
        incremental="n",
        storage="0",
        assumptions="a sparse last layer tells; it is refitted to an optimum",
        groups="additive",
        paper="Tsai et al. 2023",
    )

    def estimate(self, run: Run) -> Influence:
        """Refit the head, then one product of weighted features."""
        fitted, penalty, report = self.regularised(run, L1())
        alpha, weights = fitted.alpha(penalty), fitted.theta.abs()
        mine, theirs = fitted.explained()
        values = add(run.zeros(), alpha, fitted.f, fitted.g * weights[theirs.which], theirs)
        own = add_own(np.zeros(len(run.train)), alpha, fitted.f, fitted.f * weights[mine.which], mine)
        table, error = decomposition(run, fitted, values)
        support = {"weights_left": int((weights > 0).sum()), "weights": weights.numel()}
        return run.influence(
            values,
            scale=self.scale,
            self_influence=own,
            tables={"decomposition": table, "representer_values": values_table(run, alpha)},
            report=report | support | {"reconstruction_error": error},
        )
