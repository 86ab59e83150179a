"""Representer points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influx.engines.refits import Refitted
from influx.engines.representers import add, add_own, decomposition, values_table
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class RepresenterPoint(Refitted):
    """What each training instance adds to the logit of a test instance's label, in a refitted last layer.

    Estimates: α_i[y_j] (f_i·f_j) with α_i = -(1/(λ n)) ∂ℓ/∂ŷ at W = argmin (1/n) Σ ℓ(W f_i, y_i) + (λ/2) |W|²_F for the
        trained net's features f. Over i the values add up to the refitted head's logit of label y_j: a share of a
        logit, not a change of risk. For regression the explained value is the prediction times the sign of (y_j -
        prediction). Positive for proponents.
    Needs: learned features and a linear last layer.
    Cost: n + m forward passes, about a dozen Newton steps for the last layer, n m products of d features; memory for
        n (d + outputs) numbers beside the result.
    Source: Yeh et al. 2018, arXiv:1811.09720; survey Eq. (37)-(47), where the norm in (37) must be squared. λ here is
        twice the one of Yeh et al., whose default 0.003 is 0.006 here. They fit model_probs, and leave the bias out.

    Attributes:
        penalty: λ.
        targets: labels, or model_probs (the trained model's probabilities, its outputs for regression): then the
            refitted head imitates the trained one.
        bias: augment (a feature of constant 1, penalised like the others; the whole logit is explained), free (without
            penalty; only W f is explained) or none.
        tolerance: largest entry of the gradient at which the refit counts as an optimum.
        max_steps: most Newton steps of the refit.
        allow_nonstationary: go on with a refit that did not converge, with a warning that says how much of an explained
            value is missing.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LINEAR_HEAD})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="representer",
        full="n",
        incremental="n",
        storage="0",
        assumptions="the last layer tells; it is refitted to an optimum",
        groups="additive",
        paper="Yeh et al. 2018",
    )

    def estimate(self, run: Run) -> Influence:
        """Refit the head, then one product of features."""
        fitted, report = self.refitted(run)
        alpha = fitted.alpha(self.penalty)
        mine, theirs = fitted.explained()
        values = add(run.zeros(), alpha, fitted.f, fitted.g, theirs)
        table, error = decomposition(run, fitted, values)
        return run.influence(
            values,
            scale=self.scale,
            self_influence=add_own(np.zeros(len(run.train)), alpha, fitted.f, fitted.f, mine),
            tables={"decomposition": table, "representer_values": values_table(run, alpha)},
            report=report | {"reconstruction_error": error},
        )
