"""Models trained one at a time, straight from the learner: what metrics of retraining are held against."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from influx.engines.retrain import Bank
from influx.oracles.toys import Toy
from influx.planning import Prospect
from influx.problem import Design, Outcomes
from influx.run import Run
from influx.store import Folder


def run_of(toy: Toy, metric: Any, who: str) -> Run:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    return Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=metric.requires, who=who)


def prospect_of(toy: Toy) -> Prospect:
    return Prospect(problem=toy.problem, who="test")


def without(toy: Toy, removed: Iterable[int], seed: int, norm: str = "subset") -> Outcomes:
    """What one model trained without some rows makes of the test instances, each array (m,)."""
    weights = np.ones((1, len(toy.train)))
    weights[0, list(removed)] = 0
    numbers = np.array([seed])
    design = Design(weights=weights, init=numbers, order=numbers, loss_norm=norm)  # type: ignore[arg-type]
    found = toy.problem.learner.retrain(toy.problem.data, toy.problem.seed, design)[1]
    return Outcomes(loss=found.loss[0], margin=found.margin[0], prediction=found.prediction[0])
