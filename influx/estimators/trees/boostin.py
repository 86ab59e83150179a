"""TracIn for boosted trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from influx import interrupts
from influx.engines.forest_matches import add_matches, blocks
from influx.engines.forest_plans import match_work
from influx.engines.forest_refit import Refitter, boosted, warn_of_singles
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

LeafValue = Literal["unshrunk", "released"]


@dataclass(frozen=True, kw_only=True)
class BoostIn:
    """What an instance did to a test loss round by round, through the leaves that both fall into.

    Estimates: Σ over rounds t and outputs c of 1[same leaf] g_jc rate (g_ic + h_ic v) / (Σ h + l2), with g and h at the
        margins before round t and v the leaf's value before shrinking: the derivative of that leaf's value in i's
        weight, times the test gradient of that round. What a change does to later rounds is left out. Loss units;
        positive for proponents; 0 for instances that share no leaf.
    Needs: boosted trees.
    Cost: n + m operations for each tree, n m for each to add up; memory for the (n, m) result.
    Source: Brophy, Hammoudeh & Lowd 2023, arXiv:2205.00359; survey section 5.2.1. Their code's v includes the
        learning rate (leaf_value=released), which the derivative of the leaf's value does not.

    Attributes:
        leaf_value: unshrunk, or released for the numbers of the authors' code.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FOREST})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trees",
        full="n T",
        incremental="n T",
        storage="n T",
        assumptions="boosted trees; removal changes no split and no later round",
        groups="additive",
        paper="Brophy et al. 2023",
    )

    leaf_value: LeafValue = "unshrunk"

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.leaf_value not in get_args(LeafValue):
            raise ConfigError(f"estimator.leaf_value must be unshrunk or released, got {self.leaf_value!r}; change it")

    def plan(self, prospect: Prospect) -> Work:
        """One pass through the rounds."""
        return match_work(prospect)

    def estimate(self, run: Run) -> Influence:
        """Add up the rounds."""
        forest, values = boosted(run), run.zeros()
        shrunk = forest.rate if self.leaf_value == "released" else 1.0
        own = np.zeros(len(run.train))
        for block in blocks(forest):
            interrupts.check_forced()
            mine = (shrunk * block.unshrunk).take(block.train) * block.h  # (k, C, n)
            mine += block.g  # before it is scaled: in pure leaves the two cancel
            mine *= (-block.pull).take(block.train)
            own += np.einsum("kcn,kcn->n", mine, block.g)
            train, test = (leaves.reshape(-1, leaves.shape[-1]) for leaves in (block.train, block.test))
            add_matches(values, (train, test), (mine.reshape(train.shape), block.slope.reshape(test.shape)))
        report = Refitter(forest).report
        warn_of_singles(run, report)
        told = report | {"leaf_value": self.leaf_value}
        return run.influence(values, scale=self.scale, self_influence=own, report=told)
