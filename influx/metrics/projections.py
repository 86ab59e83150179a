"""Rank correlations as ratios of means over cells, with the part that each cell has in these means.

A resample weighs the cells anew. Ranking and pairing them again would cost a sort per resample, and a resample's
repeated cells would tie with themselves, so the moments of a resample are those of the data plus their first-order
change, to which every cell adds its own part (the Hájek projection).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.metrics.statistics import FloatArray

MAX_BINS = 1024  # per axis, for the interval of Kendall's tau-b

Parts = tuple[FloatArray, FloatArray, FloatArray]  # of xy, xx and yy: means over a resample are its moments


@dataclass(frozen=True)
class Ranked:
    """N values down each of m columns: centred relative ranks in (-1/2, 1/2), sorted order, bounds of ties."""

    rank: FloatArray
    order: NDArray[np.intp]
    left: NDArray[np.intp]
    right: NDArray[np.intp]

    @classmethod
    def of(cls, values: FloatArray) -> Ranked:
        """Rank each column of an array (N, m)."""
        size = len(values)
        order = np.argsort(values, axis=0, kind="stable")
        ordered = np.take_along_axis(values, order, axis=0)
        new = np.ones((size + 1, values.shape[1]), dtype=bool)  # does another value start here?
        new[1:-1] = ordered[1:] != ordered[:-1]
        place = np.arange(size + 1)[:, None]
        starts = np.maximum.accumulate(np.where(new, place, 0))[:-1]
        ends = np.minimum.accumulate(np.where(new, place, size)[:0:-1])[::-1]
        left, right = np.empty_like(order), np.empty_like(order)
        np.put_along_axis(left, order, starts, axis=0)
        np.put_along_axis(right, order, ends, axis=0)
        return cls((left + right) / (2 * size) - 0.5, order, left, right)

    def mean_above(self, other: FloatArray) -> FloatArray:
        """For each v: mean over all u of its column of ``other[u]`` where u ranks above v, ties counting half."""
        total = np.zeros((len(other) + 1, other.shape[1]))
        np.cumsum(np.take_along_axis(other, self.order, axis=0), axis=0, out=total[1:])
        below = np.take_along_axis(total, self.left, axis=0) + np.take_along_axis(total, self.right, axis=0)
        return np.asarray((total[-1] - below / 2) / len(other))


def ratio(xy: FloatArray, xx: FloatArray, yy: FloatArray) -> FloatArray:
    """Correlation from its moments; NaN without spread."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(xy / np.sqrt(xx * yy))


def spearman_parts(x: Ranked, y: Ranked) -> Parts:
    """Parts ``(N, m)`` of Spearman's correlation of each column: a cell's own ranks, and others' ranks through it."""
    return _spearman_part(x, y), _spearman_part(x, x), _spearman_part(y, y)


def _spearman_part(a: Ranked, b: Ranked) -> FloatArray:
    own = a.rank * b.rank
    parts = own + a.mean_above(b.rank) + b.mean_above(a.rank)
    return np.asarray(parts - (parts.mean(axis=0) - own.mean(axis=0)))


def kendall_parts(x: Ranked, y: Ranked) -> Parts:
    """Parts ``(N, m)`` of tau-b of each column: a pair has two ends, so a cell's part is twice its mean over pairs."""
    pairs = zip(x.rank.T, y.rank.T, strict=True)
    concordance = np.stack([_concordance(*pair) for pair in pairs], axis=1)
    untied = [1 - (one.right - one.left) / len(one.rank) for one in (x, y)]
    xy, xx, yy = (np.asarray(2 * part - part.mean(axis=0)) for part in (concordance, *untied))
    return xy, xx, yy


def _concordance(x: FloatArray, y: FloatArray) -> FloatArray:
    """For each cell v: mean over cells u of sign(x_v - x_u) · sign(y_v - y_u), on ranks ``(N,)`` rounded to bins.

    With a = (1 + sign) / 2, E[sign · sign] = 4 E[a_x a_y] - 2 E[a_x] - 2 E[a_y] + 1, and E[a_x a_y] is the joint
    distribution function, ties counting half: two running sums over a histogram.
    """
    bins = min(MAX_BINS, int(8 * np.sqrt(x.size)))
    rows, columns = (((rank + 0.5) * bins).astype(np.intp) for rank in (x, y))
    joint = np.bincount(rows * bins + columns, minlength=bins * bins).reshape(bins, bins) / rows.size
    for axis in (0, 1):
        joint = np.cumsum(joint, axis=axis) - joint / 2
    return np.asarray(4 * joint[rows, columns] - 2 * (x + y) - 1)
