"""Renormalised representer points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch.nn.functional import normalize

from influx.engines.refits import Refitted
from influx.engines.representers import add, add_own
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run

FLOOR = 1e-12  # of the largest norm: below it the direction of representer values is rounding
NOTE = "representer values are made unit vectors, so an instance's influence on itself tells the length of its features"


@dataclass(frozen=True, kw_only=True)
class RenormalisedRepresenter(Refitted):
    """Representer points whose representer values are unit vectors.

    Estimates: (α_i/|α_i|)[y_j] (f_i·f_j), so that instances with large risks do not outweigh the others; α_i and what
        is explained as in RepresenterPoint. Only the order means something; positive for proponents. An instance whose
        α_i vanishes gets 0.
    Needs: learned features and a linear last layer.
    Cost: as RepresenterPoint.
    Source: Hammoudeh & Lowd 2022, arXiv:2201.10055; survey footnote 29. They take the sign of one binary logit, which
        both norms equal for two classes and for regression; how it extends to more classes is ours.

    Attributes:
        penalty: λ.
        targets: labels or model_probs.
        bias: augment, free or none.
        tolerance: largest entry of the gradient at which the refit counts as an optimum.
        max_steps: most Newton steps of the refit.
        allow_nonstationary: go on with a refit that did not converge, with a warning.
        norm: l2 (α_i/|α_i|) or sign (the signs of α_i, as a unit vector).
        normalise_features: also divide features by their length, which leaves cosines; with bias augment the constant 1
            counts as one of the features.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES, Need.LINEAR_HEAD})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="representer",
        full="n",
        incremental="n",
        storage="0",
        assumptions="the last layer tells; direction matters, magnitude does not",
        groups="additive",
        paper="Hammoudeh & Lowd 2022",
    )

    norm: Literal["l2", "sign"] = "l2"
    normalise_features: bool = False

    def estimate(self, run: Run) -> Influence:
        """Refit the head, then one product of features."""
        fitted, report = self.refitted(run)
        alpha = fitted.alpha(self.penalty)
        lengths = alpha.norm(dim=1)
        zero = lengths <= FLOOR * lengths.max()
        unit = normalize(alpha.sign() if self.norm == "sign" else alpha, eps=0.0)
        unit[zero] = 0.0
        f, g = (normalize(x) if self.normalise_features else x for x in (fitted.f, fitted.g))
        mine, theirs = fitted.explained()
        return run.influence(
            add(run.zeros(), unit, f, g, theirs),
            scale=self.scale,
            self_influence=add_own(np.zeros(len(run.train)), unit, f, f, mine),
            self_influence_note=NOTE,
            report=report | {"norm": self.norm, "without_direction": int(zero.sum())},
        )
