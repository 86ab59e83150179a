"""Label quality by cross-validation, the specialised method of data cleaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influx.engines import folds as crossed
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Data
from influx.run import Card, Run

SETTING = "estimator.folds"


@dataclass(frozen=True, kw_only=True)
class ConfidentLearning:
    """Cross-validated probability of the given label, the same for every test instance.

    Estimates: p(y_i | z_i), the self-confidence: probability that models trained without the fold of i give its label,
        averaged over seeds. Low values are doubtful labels. Self-influence is 1 - p, high for doubtful ones. The table
        confident_learning adds the held-out label, the class's threshold (mean self-confidence of all instances with
        that label), and ``issue``: the held-out label is another and p is below the threshold. Only the order of the
        values means something.
    Needs: retraining; classes.
    Cost: K = ``folds`` · ``seeds`` trainings on (1 - 1/``folds``) of the data; K n operations.
    Source: Northcutt et al. 2021, section 3, with their self-confidence as the score. Their confident joint counts
        every class's probability; the retraining bank keeps that of the given label and the predicted class, so
        issues are found by these two and no joint distribution of labels is estimated.

    Attributes:
        folds: parts that are left out in turn, drawn class by class.
        seeds: initialisations and batch orders to average over; the first is the trained model's own.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="baseline",
        full="K T + K n",
        incremental="n",
        storage="K (n + m)",
        assumptions="classification",
        groups="additive",
        paper="Northcutt et al. 2021",
    )

    folds: int = 5
    seeds: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, value, least in (("folds", self.folds, 2), ("seeds", self.seeds, 1)):
            if value < least:
                raise ConfigError(f"estimator.{name} must be at least {least}, got {value}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        _refuse_regression(prospect.problem.data)
        n, m = len(prospect.train), len(prospect.test)
        return Work(
            trainings=(crossed.design(prospect, self.folds, self.seeds, SETTING),),
            numbers=2.0 * n * m,
            bytes=8.0 * n * m + 24.0 * self.folds * self.seeds * n,
            formula=f"{self.seeds} x {self.folds} trainings without a fold",
        )

    def estimate(self, run: Run) -> Influence:
        """Every column is the self-confidence."""
        import pandas as pd

        _refuse_regression(run.problem.data)
        found = crossed.held_out(run, self.folds, self.seeds, SETTING)
        confidence, y = found.confidence, run.train.y
        values = run.zeros()
        values[:] = confidence[:, None]
        counts = np.bincount(y, minlength=run.problem.data.n_outputs)
        threshold = (np.bincount(y, confidence, len(counts)) / np.maximum(counts, 1))[y]
        columns = {
            "train_id": run.train.ids,
            "self_confidence": confidence,
            "label": y,
            "held_out_label": found.prediction,
            "threshold": threshold,
            "issue": (found.prediction != y) & (confidence < threshold),
        }
        report = {"folds": self.folds, "seeds": self.seeds, "issues": int(columns["issue"].sum())}
        return run.influence(
            values,
            scale="rank",
            self_influence=1 - confidence,
            tables={"confident_learning": pd.DataFrame(columns)},
            report=report,
        )


def _refuse_regression(data: Data) -> None:
    if data.task != "classification":
        raise IncompatibleError(
            f"confident_learning asks for the probability of a label, but {data.name} is a regression; "
            "choose another estimator"
        )
