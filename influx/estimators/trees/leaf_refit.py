"""Leave-one-out with the splits of trees kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import interrupts, progress
from influx.engines.forest import Array
from influx.engines.forest_means import Means
from influx.engines.forest_plans import averages, refit_work
from influx.engines.forest_refit import Refitter, chunked, deletions
from influx.engines.group_shares import Shares
from influx.engines.groups import Groups, groups_of
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run

if TYPE_CHECKING:
    import pandas as pd

CHANGED = 0.01  # of the mean leaf value, by which a leaf that counts as changed moves
Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LeafRefit:
    """Effect of removing an instance, or a group, on trees whose splits are kept.

    Estimates: L(z_j; R(1 - e_i)) - L(z_j; R(1)), where R(w) computes all leaf values anew from instances with weights
        w, of boosted trees round after round: exact while no split would change. Groups likewise, 1 - 1_G in place of
        1 - e_i: tables groups (on the mean over test instances, beside the sum of its members' values) and
        group_influence. Loss units; positive for proponents.
    Needs: trees, boosted or averaged. Averaged trees keep the places of all other instances in their samples, as
        retraining under loss_norm=full does.
    Cost: boosted: n (n + m) operations for each tree; averaged: n m, and n + m for each group. Memory for the (n, m)
        result.
    Source: Sharchilev et al. 2018, arXiv:1802.06640 (LeafRefit with all points updated); survey section 4.1.3. A
        leaf's gradients are those before its round; a boosted leaf that loses all its instances gets the value 0. Of
        averaged trees, which the paper leaves out, a leaf is a mean; one that loses all its instances goes with the
        split above it. A forest that loses all its trees, or a class, says what the learner would.

    Attributes:
        refit_base: compute the value before the first round anew as well, which retraining would do too; needs a
            boosted ensemble that starts from the mean, or from the shares of the classes.
        groups: label (classes, or quantiles of the target), cluster (k-means of the inputs), random, or a csv file
            with columns train_id and group.
        group_count: number of groups for cluster, random and quantiles.
        group_size: instances per random group.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.FOREST})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="trees",
        full="n (n + m) T",
        incremental="n (n + m) T",
        storage="n T",
        assumptions="removal changes no split",
        groups="exact",
        paper="Sharchilev et al. 2018",
    )

    refit_base: bool = False
    groups: str = "label"
    group_count: int = 10
    group_size: int = 10

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("group_count", "group_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {getattr(self, name)}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """Refits without each instance and each group."""
        self._check_base(averages(prospect.problem.learner))
        return refit_work(prospect, len(self._groups(prospect)))

    def estimate(self, run: Run) -> Influence:
        """Refit without each instance, then without each group."""
        values, groups = run.zeros(), self._groups(run)
        refit = self._boosted if run.forest.boosted else self._averaged
        own, effects, report = refit(run, values, groups)
        tables = self._tables(run, groups, effects, values)
        return run.influence(values, scale=self.scale, self_influence=own, tables=tables, report=report)

    def _boosted(self, run: Run, values: Array, groups: Groups) -> tuple[Array, Array, Report]:
        """Fills ``values``; self-influence, effects of groups (groups, m) on test risks, and a report."""
        refitter, n = Refitter(run.forest, self.refit_base), len(run.train)
        if self.refit_base:
            refitter.check_base()
        at_once, own, changed = refitter.rows_at_once(), np.zeros(n), 0.0
        train, test, leaves = refitter.margins(torch.ones(n, 1, dtype=torch.float64))
        start, before = refitter.train.risk(train)[:, 0], refitter.test.risk(test)  # (n,), (m, 1)
        with progress.task("refitting leaves", n + len(groups)) as done:
            for rows, weights in deletions(n, at_once):
                interrupts.check_forced()
                train, test, moved = refitter.margins(weights)
                values[rows] = (refitter.test.risk(test) - before).T.numpy()
                among = torch.from_numpy(rows)
                mine = refitter.train.take(among).risk(train[:, among, torch.arange(len(rows))])
                own[rows] = (mine - start[among]).numpy()
                changed += _changed(moved, leaves) * len(rows)
                done(len(rows))
            effects = np.empty((len(groups), len(run.test)))
            for rows, weights in chunked(~groups.members, at_once):
                interrupts.check_forced()
                effects[rows] = (refitter.test.risk(refitter.margins(weights)[1]) - before).T.numpy()
                done(len(rows))
        return own, effects, refitter.report | {"leaves_changed": changed / n, "refit_base": self.refit_base}

    def _averaged(self, run: Run, values: Array, groups: Groups) -> tuple[Array, Array, Report]:
        """The same of averaged trees."""
        self._check_base(averaged=True)
        means = Means(run.forest)
        own, effects = means.without_each(values, interrupts.check_forced), np.empty((len(groups), len(run.test)))
        with progress.task("refitting leaves", len(groups)) as done:
            for number, gone in enumerate(groups.members):
                interrupts.check_forced()
                effects[number] = means.without(gone)
                done(1)
        return own, effects, means.report

    def _check_base(self, averaged: bool) -> None:
        if self.refit_base and averaged:
            raise ConfigError(
                "estimator.refit_base=true needs boosted trees, averaged ones start from nothing; set "
                "estimator.refit_base=false, or choose model=lightgbm"
            )

    def _groups(self, run: Run | Prospect) -> Groups:
        return groups_of(run, self.groups, self.group_count, self.group_size)

    @staticmethod
    def _tables(
        run: Run, groups: Groups, effects: NDArray[np.float64], values: NDArray[Any]
    ) -> dict[str, pd.DataFrame]:
        sums = groups.members.astype(np.float64) @ values.mean(axis=1)
        return Shares(groups).tables(effects[None], run.test.ids, {"sum_of_members": sums})


def _changed(moved: Tensor, before: Tensor) -> float:
    """Share of leaves, over refits, whose value moves by more than a hundredth of the mean value; takes ``moved``."""
    least = CHANGED * float(before.abs().mean())
    return int((moved.sub_(before).abs_() > least).sum()) / moved.numel()
