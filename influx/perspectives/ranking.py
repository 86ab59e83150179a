"""Influence ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from influx.errors import ConfigError
from influx.influence import Influence
from influx.perspectives.asked import refused_by, shown
from influx.problem import Problem
from influx.run import Estimator, Run

COLUMNS = 256  # test instances at a time


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The order of training instances, for each test instance and over all of them (survey, section 3.2 (6)).

    Attributes:
        top: how many ranks from either end count as being among the most influential.
    """

    top: int = 10

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.top < 1:
            raise ConfigError(f"perspective.top must be at least 1, got {self.top}; raise it")

    @property
    def seeds(self) -> int:
        """One training."""
        return 1

    def check(self, estimator: Estimator, who: str, problem: Problem) -> None:
        """Every estimator has an order unless it says otherwise."""
        refused_by(estimator, "ranking", who)

    def look(self, found: Sequence[Influence], run: Run) -> Influence:
        """Mean rank, its standard error over test instances, and in how many columns an instance is near either end."""
        from scipy.stats import rankdata

        values = found[0].values
        n, m = values.shape
        total, squares, first, last = (np.zeros(n) for _ in range(4))
        for start in range(0, m, COLUMNS):
            block = np.asarray(values[:, start : start + COLUMNS], dtype=np.float64)
            order = rankdata(-block, axis=0, nan_policy="omit")
            total += order.sum(axis=1)
            squares += (order**2).sum(axis=1)
            first += (order <= self.top).sum(axis=1)
            last += (order > np.isfinite(block).sum(axis=0) - self.top).sum(axis=1)
        mean = total / m
        spread = np.sqrt(np.maximum(squares / m - mean**2, 0.0) / max(m - 1, 1))
        table = pd.DataFrame({"train_id": run.train.ids, "mean_rank": mean, "stderr_test": spread})
        table[f"proponent_top_{self.top}"], table[f"opponent_top_{self.top}"] = first.astype(int), last.astype(int)
        table = table.sort_values("mean_rank", kind="stable").reset_index(drop=True)
        return shown(found[0], table, f"rank 1 is the strongest proponent; means over {m} test instances")
