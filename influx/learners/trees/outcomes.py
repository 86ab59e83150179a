"""What margins of trees mean for instances: values or logits, then loss, margin and prediction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influx.problem import Outcomes, TaskName

Array = NDArray[np.float64]


def shares(counts: Array) -> Array:
    """Log shares of classes, with one more instance that is spread evenly over them: (C,) counts to (C,)."""
    return np.asarray(np.log((counts + 1 / len(counts)) / (counts.sum() + 1)))


def of_margins(margins: Array) -> Array:
    """Log probabilities (C, n) from boosted margins (1, n) of class 1 of 2, or (C, n)."""
    if len(margins) == 1:
        return np.concatenate([-np.logaddexp(0.0, margins), -np.logaddexp(0.0, -margins)])
    return np.asarray(margins - np.logaddexp.reduce(margins, 0))


def of_votes(means: Array, trees: int) -> Array:
    """Log probabilities (C, n) from mean shares of classes, with one more tree that is undecided.

    A class that no tree votes for keeps a finite loss.
    """
    return np.asarray(np.log((means * trees + 1 / len(means)) / (trees + 1)))


def completed(logs: Array, present: NDArray[np.int64], classes: int, instances: float) -> Array:
    """Log probabilities (classes, n) where only those of ``present`` classes were learned, from ``instances``.

    Each of the others gets the probability that one more instance, spread over all classes, would give it.
    """
    if len(present) == classes:
        return logs
    rest = 1 / (classes * (instances + 1))
    found = np.full((classes, logs.shape[1]), np.log(rest))
    found[present] = logs + np.log1p(-rest * (classes - len(present)))
    return found


def outcomes(values: Array, y: NDArray[np.generic], task: TaskName) -> Outcomes:
    """Loss, margin and prediction (n,) from predicted values (1, n) or log probabilities (classes, n)."""
    if task == "regression":
        off = values[0] - np.asarray(y, np.float64)
        loss, margin, prediction = 0.5 * np.square(off), -np.abs(off), values[0]
    else:
        own = np.asarray(y, np.int64)[None]
        right = np.take_along_axis(values, own, 0)[0]
        others = values.copy()
        np.put_along_axis(others, own, -np.inf, 0)
        margin = right - np.logaddexp.reduce(others, 0)
        loss, prediction = np.logaddexp(0.0, -margin), values.argmax(0)
    return Outcomes(loss=loss, margin=margin.astype(np.float32), prediction=prediction.astype(np.float32))
