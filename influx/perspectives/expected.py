"""Expected influence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from influx.errors import ConfigError
from influx.influence import Influence
from influx.perspectives.asked import averaged, ranked, refuse, refused_by, shown
from influx.problem import Problem, only_training
from influx.run import Estimator, Run

NOTE = (
    "mean over {seeds} trainings that differ in initialisation and batch order; stderr is that of the mean, from the "
    "spread between trainings, the estimator's own sampling included; resolved: outside its 95% interval (Student's t)"
)
LEVEL = 0.95  # of the intervals that leave out zero where an influence counts as resolved


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Influence averaged over the randomness of training (survey, section 3.2 (5)).

    The problem is trained ``seeds`` times from initialisations and batch orders of its own, on the same data, and the
    estimator answers for each: by retraining, this is leave-one-out with ``estimator.seeds``.

    Attributes:
        seeds: trainings to average over, at least 2; the first is the problem's own.
    """

    seeds: int = 5

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.seeds < 2:
            raise ConfigError(f"perspective.seeds must be at least 2 to average over, got {self.seeds}; raise it")

    def check(self, estimator: Estimator, who: str, problem: Problem) -> None:
        """Refuse trainings without randomness."""
        refused_by(estimator, "expected", who)
        if why := only_training(problem.learner):
            raise refuse("expected", who, *why.split("; ", 1))

    @property
    def _quantile(self) -> float:
        """Standard errors from zero at which an interval from so few trainings leaves it out."""
        from scipy.stats import t

        return float(t.ppf((1 + LEVEL) / 2, self.seeds - 1))

    def look(self, found: Sequence[Influence], run: Run) -> Influence:
        """Means over trainings with their standard errors; the trainings stay as replicates, tables of one do not."""
        values = [np.asarray(influence.values, dtype=np.float64) for influence in found]
        mean = sum(values[1:], values[0].copy()) / len(values)
        spread = sum((v - mean) ** 2 for v in values)
        error = np.sqrt(spread / (len(values) - 1) / len(values))
        joint = np.stack([averaged(v, np.arange(v.shape[1]))[0] for v in values])
        se = joint.std(axis=0, ddof=1) / np.sqrt(len(values))
        table = pd.DataFrame({"train_id": run.train.ids, "influence": joint.mean(axis=0), "stderr_seeds": se})
        table["resolved"] = np.abs(table["influence"]) > self._quantile * se
        own = [influence.self_influence for influence in found if influence.self_influence is not None]
        resolved = float((np.abs(mean) > self._quantile * error).mean())
        result = Influence(
            values=mean,
            scale=found[0].scale,
            stderr=error,
            self_influence=None if len(own) < len(found) else np.mean(own, axis=0),
            self_influence_note=found[0].self_influence_note,
            replicates=tuple(values),
            report={"trainings": len(values), "stderr_degrees": len(values) - 1, "resolved_pairs": resolved},
        )
        return shown(result, ranked(table, "influence"), NOTE.format(seeds=len(values)))
