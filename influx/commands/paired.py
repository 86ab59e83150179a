"""Do two estimators really differ? Paired bootstrap over what both were judged on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from influx.commands.comparable import BLOCK, Comparable, Sides, on_subsets, on_training_instances
from influx.metrics import ranking
from influx.metrics.agreement import CORRELATIONS
from influx.metrics.resampled import resampled_spearman
from influx.metrics.row_samples import ranking_samples
from influx.metrics.statistics import (
    FloatArray,
    constant_columns,
    counts_of,
    interval,
    resample,
    spearman_columns,
    weighted_mean,
)
from influx.reporting.comparison import Difference
from influx.streams import stream

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

LDS = "lds"
METRICS = (*CORRELATIONS, *ranking.NAMES, LDS)  # means over test instances of what two saved matrices say of each
N_BOOT = 1000
LEVEL = 0.95
FEW = 30  # test instances; estimators that are alike get different letters in 7% of cases there, in 10% with 12


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What was found about R estimators.

    Attributes:
        differences: by rows ``(i, j)``, i < j: score of i minus score of j.
        different: ``(R, R)``, beyond doubt at 95% for all pairs at once.
        reasons: per row, why it takes no part, or "".
        over: what was resampled.
        lack: why those that could take part have no differences, or "".
    """

    differences: Mapping[tuple[int, int], Difference]
    different: NDArray[np.bool_]
    reasons: tuple[str, ...]
    over: str
    lack: str = ""

    def left_out(self, names: Sequence[str]) -> list[str]:
        """Sentences on the rows that take no part, by their ``names``, and on what is lacking."""
        told = [f"no differences: {self.lack}"] if self.lack else []
        for reason in dict.fromkeys(filter(None, self.reasons)):
            those = [name for name, why in zip(names, self.reasons, strict=True) if why == reason]
            told.append(f"{', '.join(those)} {'is' if len(those) == 1 else 'are'} not paired: {reason}")
        return told


def pairs_of(records: Sequence[RunRecord], metric: str, k: int) -> Pairs:
    """Compare every two ``records`` of one protocol by ``metric``, one of ``METRICS``; ``k`` is that of top-k ones.

    Test instances are resampled, the same ones for all estimators. So are rows, as in the metrics themselves: subsets,
    and training instances where only some have a truth. ``different`` uses simultaneous intervals: the largest of all
    studentised differences of a resample decides how wide they are.
    """
    return differences_of((on_subsets if metric == LDS else on_training_instances)(records, N_BOOT), metric, k)


def differences_of(found: Comparable, metric: str, k: int) -> Pairs:
    """Compare every two of what ``found`` says can be compared; the rest as for ``pairs_of``."""
    usable, count, lack = found.usable, len(found.reasons), _lack(found, metric, k)
    whole, named = np.zeros((count, count), dtype=bool), dict[tuple[int, int], Difference]()
    if len(usable) > 1 and not lack:
        values = np.array([_judge(found.sides(i), found.rows, metric, k) for i in usable])

        def samples_of(i: int) -> FloatArray | None:
            if found.counts is None:
                return None
            return _judge(found.sides(usable[i]), found.rows, metric, k, found.counts)

        differences, different = bootstrap(values, samples_of, N_BOOT)
        whole[np.ix_(usable, usable)] = different
        named = {(usable[i], usable[j]): difference for (i, j), difference in differences.items()}
        lack = "" if named else "no two are defined on the same 2 test instances, which a bootstrap needs"
    return Pairs(differences=named, different=whole, reasons=found.reasons, over=found.over, lack=lack)


def _lack(found: Comparable, metric: str, k: int) -> str:
    """Why there is nothing to compare runs on that could be compared, or ""."""
    rows = len(found.rows)
    if metric in ranking.NAMES and 0 < rows <= k:
        return f"k={k} needs more than the {rows} training instances that have a truth and every score"
    return found.lack


def bootstrap(
    values: FloatArray, samples_of: Callable[[int], FloatArray | None], n_boot: int = N_BOOT
) -> tuple[dict[tuple[int, int], Difference], NDArray[np.bool_]]:
    """Differences of the means of R estimators, and which are real.

    Args:
        values: ``(R, m)`` per test instance, NaN where undefined.
        samples_of: of an estimator, the same in resamples of the rows (n_boot, m); None where all rows are compared.
        n_boot: how many resamples.
    """
    count, n_test = values.shape
    weights = counts_of(resample(stream(0, "compare/test instances"), n_test, n_boot))  # (n_boot, m)
    masks = np.isfinite(values)
    means: list[dict[bytes, tuple[float, FloatArray]]] = []
    for i in range(count):  # few masks differ; samples are held of one estimator at a time
        shared = {mask.tobytes(): mask for mask in masks & masks[i] if mask.sum() > 1}
        samples = samples_of(i) if shared else None
        means.append({key: _mean(values[i], samples, mask, weights) for key, mask in shared.items()})
    differences, largest = {}, np.zeros(n_boot)
    errors = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            key = (masks[i] & masks[j]).tobytes()
            if key not in means[i]:
                continue
            (left, left_samples), (right, right_samples) = means[i][key], means[j][key]
            value, samples = left - right, left_samples - right_samples
            low, high = interval(samples)
            n = int((masks[i] & masks[j]).sum())
            differences[i, j] = Difference(value=value, low=low, high=high, n=n)
            error = float(np.nanstd(samples)) * math.sqrt(n / (n - 1))
            if error > 1e-12:  # otherwise the two are the same, up to rounding
                errors[i, j] = error
                largest = np.fmax(largest, np.abs(samples - value) / error)
    reach = float(np.quantile(largest, LEVEL))
    different = np.zeros((count, count), dtype=bool)
    for (i, j), found in differences.items():
        different[i, j] = different[j, i] = abs(found.value) > max(_small_sample(reach, found.n) * errors[i, j], 1e-12)
    return differences, different


@lru_cache  # pairs are many, their numbers of test instances few
def _small_sample(reach: float, n: int) -> float:
    """Resamples have the tails of a normal distribution, a studentised mean of ``n`` values those of Student's t."""
    from scipy.stats import norm, t

    return float(t.isf(norm.sf(reach), n - 1))


def _mean(
    values: FloatArray, samples: FloatArray | None, mask: NDArray[np.bool_], weights: FloatArray
) -> tuple[float, FloatArray]:
    """Mean over the test instances in ``mask`` (m,), and in resamples (n_boot,)."""
    value = float(values[mask].mean())
    drawn = weights[:, mask]
    if samples is None:
        size = drawn.sum(axis=1)
        return value, drawn @ values[mask] / np.where(size > 0, size, np.nan)
    means = weighted_mean(samples[:, mask], drawn)
    return value, means + (value - np.nanmean(means))  # repeated rows move what depends on ranks


def _judge(sides: Sides, rows: NDArray[np.int64], metric: str, k: int, counts: FloatArray | None = None) -> FloatArray:
    """Values per test instance (m,), or, with ``counts``, in resamples of the rows (n_boot, m); NaN where undefined."""
    n_test = sides[0].shape[1]
    found = np.full(n_test if counts is None else (len(counts), n_test), np.nan)
    block = max(1, BLOCK // max(1, len(rows)))
    for start in range(0, n_test, block):
        columns = np.arange(start, min(start + block, n_test))
        scores, truth = (np.asarray(matrix[np.ix_(rows, columns)]) for matrix in sides)
        finite = np.isfinite(scores).all(axis=0) & np.isfinite(truth).all(axis=0)
        defined = finite & ~(constant_columns(scores) | constant_columns(truth))
        if not defined.any():
            continue
        pair = scores[:, defined].astype(np.float64), truth[:, defined].astype(np.float64)
        of_pair = _values(*pair, metric, k) if counts is None else _samples(*pair, metric, k, counts)
        found[..., columns[defined]] = of_pair
    return found


def _values(scores: FloatArray, truth: FloatArray, metric: str, k: int) -> FloatArray:
    if metric == LDS:
        return spearman_columns(scores, truth)
    if metric in CORRELATIONS:
        return CORRELATIONS[metric][0](scores, truth)
    if metric == "ndcg":
        return ranking.ndcg(truth, ranking.top(scores, k), ranking.top(truth, k))[0]
    sign = -1 if metric == "topk_opponents" else 1
    return ranking.overlap(ranking.top(sign * scores, k), ranking.top(sign * truth, k), len(scores))


def _samples(scores: FloatArray, truth: FloatArray, metric: str, k: int, counts: FloatArray) -> FloatArray:
    if metric == LDS:
        return resampled_spearman(np.stack([scores, truth]), counts)
    if metric in CORRELATIONS:
        return CORRELATIONS[metric][1]((scores, truth), counts)
    return ranking_samples(scores, truth, counts, k)[ranking.NAMES.index(metric)]
