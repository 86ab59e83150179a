"""Leave-one-out with the splits of boosted trees kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import interrupts, progress
from influx.engines.forest_plans import refit_work
from influx.engines.forest_refit import Refitter, boosted, chunked, deletions
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


@dataclass(frozen=True, kw_only=True)
class LeafRefit:
    """Effect of removing an instance, or a group, on boosted trees whose splits are kept.

    Estimates: L(z_j; R(1 - e_i)) - L(z_j; R(1)), where R(w) computes all leaf values anew, round after round, from
        instances with weights w: exact while no split would change. Groups likewise, 1 - 1_G in place of 1 - e_i:
        tables groups (on the mean over test instances, beside the sum of its members' values) and group_influence.
        Loss units; positive for proponents.
    Needs: boosted trees.
    Cost: n (n + m) operations for each tree; memory for the (n, m) result.
    Source: Sharchilev et al. 2018, arXiv:1802.06640 (LeafRefit with all points updated); survey section 4.1.3. A
        leaf's gradients are those before its round; a leaf that loses all its instances gets the value 0.

    Attributes:
        refit_base: compute the value before the first round anew as well, which retraining would do too; needs an
            ensemble that starts from the mean, or from the shares of the classes.
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
        assumptions="boosted trees; removal changes no split",
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
        return refit_work(prospect, len(prospect.train) + len(self._groups(prospect)))

    def estimate(self, run: Run) -> Influence:
        """Refit without each instance, then without each group."""
        refitter, groups = Refitter(boosted(run), self.refit_base), self._groups(run)
        if self.refit_base:
            refitter.check_base()
        n, at_once = len(run.train), refitter.rows_at_once()
        train, test, leaves = refitter.margins(torch.ones(n, 1, dtype=torch.float64))
        start, before = refitter.train.risk(train)[:, 0], refitter.test.risk(test)  # (n,), (m, 1)
        values, own, changed = run.zeros(), np.zeros(n), 0.0
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
        report = refitter.report | {"leaves_changed": changed / n, "refit_base": self.refit_base}
        tables = self._tables(run, groups, effects, values)
        return run.influence(values, scale=self.scale, self_influence=own, tables=tables, report=report)

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
