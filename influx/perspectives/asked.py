"""What all perspectives share: their protocol, refusal by name, and sums over test instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.planning import Prospect
from influx.problem import Problem
from influx.run import Estimator, Run

if TYPE_CHECKING:
    import pandas as pd


INSTEAD = {  # what to choose where an estimator refuses
    "group": "choose estimator=group_loo, or one that lists groups as additive",
    "memorization": "choose estimator=loo, downsampling, tracincp or hydra",
    "cooks_distance": "choose estimator=cooks_distance or influence_sketching",
}


class Perspective(Protocol):
    """One way of asking. A frozen dataclass whose fields say what exactly is asked."""

    @property
    def seeds(self) -> int:
        """How many trainings of the problem are looked at."""
        ...

    def check(self, estimator: Estimator, who: str, problem: Problem) -> None:
        """Refuse an estimator that cannot answer (``IncompatibleError``), naming it and one that can."""
        ...

    def look(self, found: Sequence[Influence], run: Run) -> Influence:
        """One result, from what the estimator found under each training (the problem's own first)."""
        ...


def refuse(perspective: str, who: str, reason: str, instead: str = "") -> IncompatibleError:
    """The error for an estimator without that perspective."""
    return IncompatibleError(
        f"perspective={perspective} does not fit estimator={who}: {reason}; {instead or INSTEAD[perspective]}"
    )


def refused_by(estimator: Estimator, perspective: str, who: str) -> None:
    """Raise what the estimator itself says against a perspective, in its ``refuses``: perspective → reason.

    Raises:
        IncompatibleError: naming both.
    """
    refuses: Mapping[str, str] = getattr(estimator, "refuses", {})
    if perspective in refuses:
        raise refuse(perspective, who, refuses[perspective], INSTEAD.get(perspective, "choose another estimator"))


def shown(influence: Influence, table: pd.DataFrame, note: str) -> Influence:
    """The result with the perspective's table and one sentence about it."""
    tables = dict(influence.tables) | {"perspective": table}
    return replace(influence, tables=tables, report=dict(influence.report) | {"perspective": note})


def chosen_columns(run: Run | Prospect, tests: Sequence[int] | None) -> NDArray[np.int64]:
    """Columns of the test instances with the given ids; None means all.

    Raises:
        ConfigError: an id is no test id, or there is none.
    """
    ids = run.test.ids
    if tests is None:
        return np.arange(len(ids))
    unknown = sorted(set(tests) - set(ids.tolist()))
    if unknown or not tests:
        raise ConfigError(
            f"perspective.tests must be ids of test instances (see ids.parquet), got {unknown[:5]}; change them"
        )
    return np.flatnonzero(np.isin(ids, list(tests)))


def averaged(values: NDArray[Any], columns: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over some columns, and its standard error as a sample of test instances (NaN for one)."""
    chosen = np.asarray(values[:, columns], dtype=np.float64)
    mean = np.asarray(chosen.mean(axis=1))
    if len(columns) < 2:
        return mean, np.full(len(mean), np.nan)
    return mean, np.asarray(chosen.std(axis=1, ddof=1) / np.sqrt(len(columns)))


def ranked(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Rows from the largest value of a column to the smallest, with a column rank; ties keep their order."""
    table = table.sort_values(by, ascending=False, kind="stable", na_position="last").reset_index(drop=True)
    table.insert(1, "rank", np.arange(1, len(table) + 1))
    return table
