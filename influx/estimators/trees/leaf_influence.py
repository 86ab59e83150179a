"""Influence functions of the leaves of boosted trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx import interrupts, progress
from influx.engines.forest_derivatives import Derivatives
from influx.engines.forest_matches import Matches
from influx.engines.forest_plans import influence_work
from influx.engines.forest_refit import boosted, warn_of_singles
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

UpdateSet = Literal["all", "top_k", "single"]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LeafInfluence:
    """Derivative of test losses in an instance's weight, through the leaf values of boosted trees with fixed splits.

    Estimates: -dL(z_j; R(w))/dw_i at w = 1, where R computes all leaf values anew (see leaf_refit), which is the
        effect of removal to first order. Loss units; positive for proponents.
    Needs: boosted trees.
    Cost: all: n m operations for each tree, backwards from test instances, and n² more for self-influence. top_k:
        n (n + m) for each tree. single: n + m for each tree, and n m for each that adds up.
    Source: Sharchilev et al. 2018, arXiv:1802.06640; survey section 5.1. With more than two classes their code leaves
        out what a class's margin does to the gradients of the others (cross_class=false).

    Attributes:
        update_set: whose margins pass a change on to later rounds: all, those in the top_k most moved leaves of each
            tree beside the instance's own, or single (the instance's own alone).
        top_k: leaves per tree with update_set=top_k; as many as there are give the same as all.
        cross_class: keep derivatives of a class's gradient in the margins of other classes.
        self_influence: compute it with update_set=all, n² operations for each tree; otherwise it costs nothing more.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FOREST})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trees",
        full="n (n + m) T",
        incremental="n m T",
        storage="n T",
        assumptions="boosted trees; removal changes no split; small weights",
        groups="additive",
        paper="Sharchilev et al. 2018",
    )

    update_set: UpdateSet = "all"
    top_k: int = 10
    cross_class: bool = True
    self_influence: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.update_set not in get_args(UpdateSet):
            raise ConfigError(f"estimator.update_set must be all, top_k or single, got {self.update_set!r}; change it")
        if self.top_k < 1:
            raise ConfigError(
                f"estimator.top_k must be at least 1, got {self.top_k}; for none set estimator.update_set=single"
            )

    def plan(self, prospect: Prospect) -> Work:
        """Passes through the rounds."""
        return influence_work(prospect, self.update_set, self.self_influence)

    def estimate(self, run: Run) -> Influence:
        """Differentiate the refitted ensemble."""
        derivatives = Derivatives(boosted(run), self.cross_class)
        values = run.zeros()
        ways = {"all": self._all, "top_k": self._top, "single": self._single}
        own = ways[self.update_set](derivatives, values)
        report = derivatives.refitter.report
        warn_of_singles(run, report)
        told = report | {"update_set": self.update_set}
        return run.influence(values, scale=self.scale, self_influence=own, report=told)

    def _all(self, derivatives: Derivatives, values: Array) -> Array | None:
        n, m = values.shape
        at_once = derivatives.at_once(n)
        with progress.task("leaf influence", m + n * self.self_influence) as done:
            for start in range(0, m, at_once):
                interrupts.check_forced()
                part = np.arange(start, min(start + at_once, m))
                values[:, part] = derivatives.back(part, on_train=False).numpy()
                done(len(part))
            if not self.self_influence:
                return None
            own = np.empty(n)
            for start in range(0, n, at_once):
                interrupts.check_forced()
                part = np.arange(start, min(start + at_once, n))
                own[part] = derivatives.back(part, on_train=True).numpy()[part, np.arange(len(part))]
                done(len(part))
        return own

    def _top(self, derivatives: Derivatives, values: Array) -> Array:
        n, m = values.shape
        at_once, own = derivatives.at_once(n + m), np.empty(n)
        with progress.task("leaf influence", n) as done:
            for start in range(0, n, at_once):
                interrupts.check_forced()
                rows = np.arange(start, min(start + at_once, n))
                found, itself = derivatives.forward(rows, self.top_k)
                values[rows], own[rows] = found.T.numpy(), itself.numpy()
                done(len(rows))
        return own

    def _single(self, derivatives: Derivatives, values: Array) -> Array:
        train, test = derivatives.last
        matches = Matches(derivatives.forest, values)
        moved = derivatives.alone(lambda t, own: matches.add(t, -own, test))
        return np.asarray(-(moved * train).sum(0).numpy())
