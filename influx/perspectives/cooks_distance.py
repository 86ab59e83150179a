"""Cook's distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from influx.influence import Influence
from influx.perspectives.asked import ranked, refuse, shown
from influx.problem import Problem
from influx.run import Estimator, Run

NOTE = "how far the parameters move without each training instance; it has no sign of help or harm"
TABLES = ("cooks_distance", "sketched_cooks")


@dataclass(frozen=True, kw_only=True)
class CooksDistanceView:
    """One training instance on the parameters (survey, section 3.2 (4), Eq. 5)."""

    @property
    def seeds(self) -> int:
        """One training."""
        return 1

    def check(self, estimator: Estimator, who: str, problem: Problem) -> None:
        """Refuse estimators that do not measure parameters."""
        if not getattr(estimator, "parameters", False):
            raise refuse("cooks_distance", who, "it measures predictions, not parameters")

    def look(self, found: Sequence[Influence], run: Run) -> Influence:
        """Training instances from the largest distance on."""
        table = next(found[0].tables[name] for name in TABLES if name in found[0].tables)
        value = "distance" if "distance" in table else "score"
        return shown(found[0], ranked(table, value), NOTE)
