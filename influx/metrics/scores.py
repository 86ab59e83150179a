"""One number per training instance to rank it by, from an influence matrix, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from influx.influence import Influence
from influx.metrics.aligned import Unavailable
from influx.metrics.statistics import FloatArray, constant_columns

Rows = NDArray[np.int64]
Rule = Literal["self", "sum", "turns"]
FIRST: Mapping[str, str] = {  # for protocols: which instances come first
    "self": "highest self-influence",
    "sum": "highest influence summed over the ranking half",
    "turns": "named first when the ranking half's test instances take turns",
}


def by_rule(rule: str, influence: Influence, columns: NDArray[np.int64]) -> FloatArray | Unavailable:
    """``(n,)`` high for what comes first by a rule; ``columns`` are the test instances that rank."""
    if rule == "self":
        return by_self(influence)
    return by_sum(influence, columns) if rule == "sum" else by_turns(influence, columns)


def by_self(influence: Influence) -> FloatArray | Unavailable:
    """``(n,)`` self-influence: high for memorised instances."""
    if influence.self_influence is None or influence.self_influence_note:
        reason = influence.self_influence_note or "this estimator gives no self-influence"
        return Unavailable(status="not applicable", note=reason)
    return usable(influence.self_influence)


def by_sum(influence: Influence, columns: Rows, rows: Rows | None = None) -> FloatArray | Unavailable:
    """``(n,)``, or of some training ``rows``: influence summed over test instances, low for harmful instances."""
    # Summed in float64; spread is judged against the rounding of the stored numbers.
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and counted below
        total = np.sum(_cut(influence, columns, rows), axis=1, dtype=np.float64)
    return usable(total.astype(influence.values.dtype))


def by_turns(influence: Influence, columns: Rows, rows: Rows | None = None) -> FloatArray | Unavailable:
    """``(n,)``, or of some training ``rows``: high for those that are named early when test instances take turns.

    In each round every test instance names its next best proponent. An instance stands where its best rank among the
    test instances puts it; those of one round by their influence there, equal ones by row index. Instances that a test
    instance cannot tell apart have the last of their ranks there, and test instances that tell none apart have no turn.
    """
    values = _cut(influence, columns, rows)
    unknown = int((~np.isfinite(values)).any(axis=1).sum())
    if unknown:
        note = f"{unknown} of {len(values)} training instances have no finite score"
        return Unavailable(status="degenerate", note=note)
    values = values[:, ~constant_columns(values)]
    if not values.shape[1]:
        return Unavailable(status="degenerate", note="all training instances have the same score")
    place = stats.rankdata(-values, method="max", axis=0)
    named = place.min(axis=1)
    there = np.where(place == named[:, None], values, -np.inf).max(axis=1)
    found = np.empty(len(values))
    found[np.lexsort((-there, named))] = np.arange(len(values), 0, -1)
    return found


def _cut(influence: Influence, columns: Rows, rows: Rows | None) -> NDArray[Any]:
    """Influence of all or some training ``rows`` on some test instances."""
    return np.asarray(influence.values[:, columns] if rows is None else influence.values[rows][:, columns])


def orders(found: Mapping[Any, FloatArray | Unavailable]) -> dict[str, Rows]:
    """Rows from the highest score on, by rule, for the rules that have scores."""
    return {rule: descending(score) for rule, score in found.items() if not isinstance(score, Unavailable)}


def usable(scores: NDArray[Any]) -> FloatArray | Unavailable:
    """The scores in float64, unless some are not finite or all are the same."""
    unknown = int((~np.isfinite(scores)).sum())
    if unknown:
        note = f"{unknown} of {len(scores)} training instances have no finite score"
        return Unavailable(status="degenerate", note=note)
    if constant_columns(scores.reshape(-1, 1))[0]:
        return Unavailable(status="degenerate", note="all training instances have the same score")
    return np.asarray(scores, dtype=np.float64)


def descending(scores: NDArray[Any], ids: NDArray[np.int64] | None = None) -> Rows:
    """Rows from the highest score to the lowest; equal ones by their ids where given, by row index otherwise."""
    if ids is None:
        return np.argsort(-scores, kind="stable")
    by_id = np.argsort(ids, kind="stable")
    return np.asarray(by_id[np.argsort(-scores[by_id], kind="stable")])
