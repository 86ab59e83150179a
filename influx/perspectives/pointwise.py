"""Pointwise influence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from influx.influence import Influence
from influx.problem import Problem
from influx.run import Estimator, Run


@dataclass(frozen=True, kw_only=True)
class Pointwise:
    """One training instance on one test instance: the matrix as it is (survey, section 3.1)."""

    @property
    def seeds(self) -> int:
        """One training."""
        return 1

    def check(self, estimator: Estimator, who: str, problem: Problem) -> None:
        """Every estimator answers this."""

    def look(self, found: Sequence[Influence], run: Run) -> Influence:
        """What was found."""
        return found[0]
