"""Similarity of learned features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch.nn.functional import normalize

from influx.influence import Influence, Scale
from influx.needs import Need
from influx.run import Card, Run

ROWS = 4096  # training instances compared at a time
NOTE = "the cosine of an instance's features with themselves is 1, so self-influence cannot rank instances"


@dataclass(frozen=True, kw_only=True)
class FeatureSimilarity:
    """Cosine of penultimate features, negative between instances of different classes.

    Estimates: nothing; cos(f_i, f_j), times -1 when the labels differ (``signed``): what looks alike and is
        labelled alike counts as a proponent.
    Needs: learned features.
    Cost: n + m forward passes and one product of matrices.
    Source: Hanawa et al. 2021, arXiv:2006.04528, with the sign of label agreement added.

    Attributes:
        signed: multiply by -1 when class labels differ; ignored for regression.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FEATURES})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="baseline",
        full="n d",
        incremental="n d",
        storage="0",
        assumptions="none",
        groups="additive",
        paper="Hanawa et al. 2021",
    )

    signed: bool = True

    def estimate(self, run: Run) -> Influence:
        """Cosines of all pairs."""
        left, right = (run.features.penultimate(s) for s in (run.train, run.test))
        values, unit = run.zeros(), normalize(right.double())
        signed = self.signed and run.problem.data.task == "classification"
        for start in range(0, len(values), ROWS):
            part = slice(start, start + ROWS)
            values[part] = (normalize(left[part].double()) @ unit.T).cpu().numpy()
            if signed:
                values[part] *= np.where(run.train.y[part, None] == run.test.y[None, :], 1.0, -1.0)
        return run.influence(values, scale="rank", self_influence=np.ones(len(run.train)), self_influence_note=NOTE)
