"""Similarity of leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influx.engines.forest_kernels import LeafFeatures
from influx.engines.forest_plans import kernel_work
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

NOTE = "an instance is most similar to itself, so self-influence cannot rank instances"


@dataclass(frozen=True, kw_only=True)
class TreeSimilarity:
    """How often trees put two instances into the same leaf, negative between instances of different classes.

    Estimates: nothing; φ_i·φ_j for leaf features φ, 1/|leaf|^power in the leaves of an instance, with ``cosine``
        divided by their lengths, times -1 when the labels differ (``signed``): what trees cannot tell apart and is
        labelled alike counts as a proponent.
    Needs: trees, boosted or averaged.
    Cost: n m operations for each tree.
    Source: Brophy, Hammoudeh & Lowd 2023, arXiv:2205.00359 (TreeSim). Their kernel has power 1 and no cosine; for
        regression the sign here is always positive.

    Attributes:
        leaf_power: how much less large leaves count.
        cosine: divide by the lengths of the features.
        signed: multiply by -1 when class labels differ; ignored for regression.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FOREST})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="trees",
        full="n T",
        incremental="n T",
        storage="n T",
        assumptions="none",
        groups="additive",
        paper="Brophy et al. 2023",
    )

    leaf_power: float = 1.0
    cosine: bool = True
    signed: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.leaf_power < math.inf:
            raise ConfigError(f"estimator.leaf_power must be a number of at least 0, got {self.leaf_power}; set 1")

    def plan(self, prospect: Prospect) -> Work:
        """One product of leaf features."""
        return kernel_work(prospect)

    def estimate(self, run: Run) -> Influence:
        """Products of all pairs."""
        features, values = LeafFeatures.of(run.forest, self.leaf_power), run.zeros()
        signed = self.signed and run.problem.data.task == "classification"
        mine, theirs = (np.sqrt(norms) for norms in features.norms)
        for rows, part, products in features.kernel():
            if self.cosine:
                products /= mine[rows, None] * theirs[None, part]
            if signed:
                products *= np.where(run.train.y[rows, None] == run.test.y[None, part], 1.0, -1.0)
            values[rows, part] = products
        own = np.ones(len(values)) if self.cosine else features.norms[0]
        return run.influence(values, scale=self.scale, self_influence=own, self_influence_note=NOTE)
