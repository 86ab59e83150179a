"""Joint influence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from influx.influence import Influence
from influx.perspectives.asked import averaged, chosen_columns, ranked, refused_by, shown
from influx.planning import Prospect
from influx.problem import Problem
from influx.run import Estimator, Run

NOTE = (
    "influence on the mean risk of {count} test instances; stderr_test takes them as a sample, stderr_design is the "
    "estimator's own uncertainty about their mean, and neither contains the other"
)


@dataclass(frozen=True, kw_only=True)
class Joint:
    """One training instance on the mean risk of a set of test instances (survey, section 3.2 (2), Eq. 3 over its size).

    Attributes:
        tests: ids of the test instances; None means all.
    """

    tests: list[int] | None = None

    @property
    def seeds(self) -> int:
        """One training."""
        return 1

    def check(self, estimator: Estimator, who: str, problem: Problem) -> None:
        """Refuse estimators whose columns do not add up, and unknown test ids."""
        refused_by(estimator, "joint", who)
        chosen_columns(Prospect(problem=problem, who="perspective"), self.tests)

    def look(self, found: Sequence[Influence], run: Run) -> Influence:
        """Training instances from the most helpful to the most harmful."""
        influence, columns = found[0], chosen_columns(run, self.tests)
        mean, error = averaged(influence.values, columns)
        table = pd.DataFrame({"train_id": run.train.ids, "influence": mean, "stderr_test": error})
        own = influence.tables.get("joint")
        if self.tests is None and own is not None and "stderr_design" in own:
            known = own.set_index("train_id")["stderr" if "stderr" in own else "stderr_design"]
            table["stderr_design"] = known.reindex(run.train.ids).to_numpy()
        elif influence.stderr is not None:  # columns share their models, so errors do not cancel: at most this
            table["stderr_design"] = np.asarray(influence.stderr[:, columns], dtype=np.float64).mean(axis=1)
        return shown(influence, ranked(table, "influence"), NOTE.format(count=len(columns)))
