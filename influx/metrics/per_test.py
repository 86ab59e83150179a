"""One value per test instance, summarised with a bootstrap interval over test instances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from influx.metrics.row_samples import interval_over
from influx.metrics.statistics import FloatArray, counts_of, interval, resample, weighted_mean
from influx.metrics.tidy import Measured, sentences

Centre = Literal["mean", "median"]


def summarise(
    metric: str,
    values: FloatArray,
    *,
    rng: np.random.Generator,
    n_boot: int,
    samples: FloatArray | None = None,
    lowest: float = -1.0,
    centre: Centre = "mean",
    then: Callable[[FloatArray], FloatArray] | None = None,
    protocol: str = "",
    note: str = "",
) -> Measured:
    """Mean or median of ``values`` (m,) over test instances, NaN being degenerate, with a 95% interval.

    ``then`` is applied to the summary and to its resamples (Spearman-Brown, say). Test instances are resampled; the
    model stays fixed, and so do the training instances compared, unless ``samples`` (n_boot, m) has the values in
    resamples of these. Such resamples repeat rows, which moves a value that depends on ranks; they are moved back
    by their mean difference from the estimate, within ``lowest`` and 1.
    """
    defined = np.isfinite(values)
    usable = values[defined]
    protocol = sentences(f"{centre} over test instances", protocol, interval_over(samples is not None, n_boot))
    if not usable.size:
        return Measured(metric=metric, status="degenerate", protocol=protocol, note=note)
    value = np.atleast_1d(np.asarray(np.mean(usable) if centre == "mean" else np.median(usable), dtype=np.float64))
    low, high = math.nan, math.nan
    if usable.size == 1:
        note = sentences(note, "no interval from a single test instance")
    else:
        if samples is None:
            centres = _centres(usable, rng, n_boot, centre)
        else:
            centres = _centres_of_rows(samples[:, defined], rng, centre)
            finite = centres[np.isfinite(centres)]
            centres = np.clip(finite + (value - finite.mean()) if finite.size else finite, lowest, 1.0)
        low, high = interval(then(centres) if then else centres)
    value = then(value) if then else value
    return Measured(
        metric=metric, value=float(value[0]), ci_low=low, ci_high=high, n=usable.size, protocol=protocol, note=note
    )


def _centres(usable: FloatArray, rng: np.random.Generator, n_boot: int, centre: Centre) -> FloatArray:
    """``(n_boot,)`` mean or median of ``usable`` (m,) in resamples."""
    indices = resample(rng, usable.size, n_boot)
    if centre == "mean":
        return np.asarray(counts_of(indices) @ usable / usable.size)
    return np.asarray(np.median(usable[indices], axis=1))


def _centres_of_rows(samples: FloatArray, rng: np.random.Generator, centre: Centre) -> FloatArray:
    """The same where each resample has its own values (n_boot, m); those without any are NaN or left out."""
    indices = resample(rng, samples.shape[1], len(samples))
    if centre == "mean":
        return weighted_mean(samples, counts_of(indices))
    drawn = np.take_along_axis(samples, indices, axis=1)
    drawn = drawn[np.isfinite(drawn).any(axis=1)]
    return np.asarray(np.nanmedian(drawn, axis=1))
