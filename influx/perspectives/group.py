"""Group influence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from influx.engines.groups import groups_of
from influx.influence import Influence
from influx.perspectives.asked import averaged, ranked, refuse, refused_by, shown
from influx.planning import Prospect
from influx.problem import Problem
from influx.run import Estimator, Run

NOTE = {
    "additive": "group influence as the sum of its members' influences, which leaves out how members act together",
    "exact": "influence of each group as a whole, as the estimator found it for its own groups",
}
MOST = 1_000_000  # groups times test instances written one by one


@dataclass(frozen=True, kw_only=True)
class Group:
    """A set of training instances on each test instance (survey, section 3.2 (1)).

    An estimator whose card says ``additive`` answers by sums over the members of any groups; one that says ``exact``
    (group_loo, Shapley values of groups) by its own groups, which are then set there.

    Attributes:
        by: label, cluster, random, or the path of a csv file with columns train_id and group.
        group_count: clusters, random groups, or quantiles of a regression target.
        group_size: instances per random group.
    """

    by: str = "label"
    group_count: int = 10
    group_size: int = 10

    @property
    def seeds(self) -> int:
        """One training."""
        return 1

    def check(self, estimator: Estimator, who: str, problem: Problem) -> None:
        """Refuse estimators whose influences do not add up, and settings that name no groups."""
        refused_by(estimator, "group", who)
        if estimator.card.groups == "no":
            reason = "its influences of single instances do not add up to that of a group"
            raise refuse("group", who, reason)
        groups_of(
            Prospect(problem=problem, who="perspective"), self.by, self.group_count, self.group_size, "perspective"
        )

    def look(self, found: Sequence[Influence], run: Run) -> Influence:
        """Groups with size and influence on the mean risk, then one row per group and test instance."""
        influence = found[0]
        if "groups" in influence.tables:
            return shown(influence, influence.tables["groups"], NOTE["exact"])
        groups = groups_of(run, self.by, self.group_count, self.group_size, "perspective")
        values = groups.members.astype(np.float64) @ np.asarray(influence.values, dtype=np.float64)
        mean, error = averaged(values, np.arange(values.shape[1]))
        size = groups.members.sum(axis=1)
        table = pd.DataFrame({"group": groups.names, "size": size, "influence": mean, "stderr_test": error})
        made = shown(influence, ranked(table, "influence"), NOTE["additive"])
        if values.size > MOST:
            return made
        g, m = values.shape
        long = {"group": np.repeat(groups.names, m), "test_id": np.tile(run.test.ids, g), "influence": values.ravel()}
        return replace(made, tables=dict(made.tables) | {"group_influence": pd.DataFrame(long)})
