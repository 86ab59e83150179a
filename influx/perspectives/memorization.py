"""Memorization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from influx.influence import Influence
from influx.perspectives.asked import ranked, refuse, refused_by, shown
from influx.problem import Problem
from influx.results import labels
from influx.run import Estimator, Run

NOTE = "influence of each training instance on itself: large where the model is right only because it saw the instance"


@dataclass(frozen=True, kw_only=True)
class Memorization:
    """One training instance on itself (survey, section 3.2 (3), Eq. 4)."""

    @property
    def seeds(self) -> int:
        """One training."""
        return 1

    def check(self, estimator: Estimator, who: str, problem: Problem) -> None:
        """Refuse estimators that say that their influence on itself means nothing."""
        refused_by(estimator, "memorization", who)

    def look(self, found: Sequence[Influence], run: Run) -> Influence:
        """Training instances from the most memorised on.

        Raises:
            IncompatibleError: the estimator gave no influence on itself.
        """
        influence = found[0]
        if influence.self_influence is None or influence.self_influence_note:
            reason = influence.self_influence_note or "it gives no influence of an instance on itself"
            raise refuse("memorization", run.who, reason)
        given = {"train_id": run.train.ids, "label": labels(run.problem.data, run.train)}
        table = pd.DataFrame(given | {"memorization": influence.self_influence})
        return shown(influence, ranked(table, "memorization"), NOTE)
