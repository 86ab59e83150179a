"""Small training sets chosen by their inputs alone: what coresets of influence are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from influx.datasets.split import apportion
from influx.metrics.statistics import FloatArray
from influx.problem import Split

Rows = NDArray[np.int64]
Specialised = Literal["herding", "k_centre"]


def herding(x: NDArray[Any], count: int) -> Rows:
    """``count`` rows of ``x`` (n, d), each the one that brings the mean of those chosen closest to the mean of all.

    Source: Welling 2009; Rebuffi et al. 2017, algorithm 4.
    """
    centred, cost = _centred(x)  # |chosen + next|² without the part that is the same for all
    chosen = np.empty(count, np.int64)
    for place in range(count):
        chosen[place] = best = int(cost.argmin())
        cost += 2.0 * (centred @ centred[best])
        cost[best] = np.inf
    return chosen


def k_centre(x: NDArray[Any], count: int) -> Rows:
    """``count`` rows of ``x`` (n, d): the one nearest to the mean, then each the farthest from those chosen.

    Source: Gonzalez 1985; Sener & Savarese 2018, algorithm 1.
    """
    centred, norms = _centred(x)
    far = np.full(len(x), np.inf)
    chosen = np.empty(count, np.int64)
    best = int(norms.argmin())
    for place in range(count):
        chosen[place] = best
        gaps = norms + norms[best] - 2.0 * (centred @ centred[best])
        far = np.minimum(far, np.maximum(gaps, 0.0))  # rounding may take them below 0
        far[best] = -1.0  # copies of a chosen row are at 0 and still to be had
        best = int(far.argmax())
    return chosen


def _centred(x: NDArray[Any]) -> tuple[NDArray[np.float32], FloatArray]:
    """``x`` (n, d) around its mean in single precision, the one copy that is held, and its squared norms (n,)."""
    centred = np.empty(x.shape, np.float32)
    np.subtract(x, x.mean(axis=0, dtype=np.float64), out=centred, casting="unsafe")
    return centred, np.einsum("ij,ij->i", centred, centred, dtype=np.float64)


RULES: Mapping[Specialised, Callable[[NDArray[Any], int], Rows]] = {"herding": herding, "k_centre": k_centre}


def order(rule: Specialised, train: Split, most: int, strata: NDArray[Any] | None) -> Rows:
    """``(n,)`` rows, of which the first ones of all, or of each of the ``strata`` (n,), are the rule's.

    Only as many are chosen as ``most`` of n need; the others follow as they come.
    """
    x = np.asarray(train.x).reshape(len(train), -1)
    labels = np.zeros(len(x), np.int64) if strata is None else strata
    chosen, left = [], []
    for label, quota in enumerate(apportion(np.bincount(labels), most).tolist()):
        rows = np.flatnonzero(labels == label)
        if not len(rows):
            continue
        picked = rows[RULES[rule](x[rows], min(quota + 1, len(rows)))]  # a smaller set may need one more of a class
        chosen.append(picked)
        left.append(np.setdiff1d(rows, picked))
    return np.concatenate([*chosen, *left])
