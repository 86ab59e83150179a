"""Training loss as a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class TrainingLoss:
    """Training loss of the instance, the same for every test instance.

    Estimates: nothing; L(z_i; θ) as a score. The plain detector of mislabeled instances that others must beat.
    Needs: outcomes of the trained model.
    Cost: n forward passes.
    Source: the usual reference row (survey section 7).
    """

    requires: ClassVar[frozenset[Need]] = frozenset()
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="baseline", full="n", incremental="1", storage="0", assumptions="none", groups="additive", paper="-"
    )

    def estimate(self, run: Run) -> Influence:
        """Every column is the training loss."""
        loss = run.outcomes(run.train).loss
        values = np.repeat(loss[:, None], len(run.test), axis=1)
        return run.influence(values, scale="rank", self_influence=loss)
