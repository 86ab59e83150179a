"""One value per test instance, summarised with a bootstrap interval over test instances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from influx.metrics.statistics import FloatArray, counts_of, interval, resample
from influx.metrics.tidy import Measured, sentences

Centre = Literal["mean", "median"]


def summarise(
    metric: str,
    values: FloatArray,
    *,
    rng: np.random.Generator,
    n_boot: int,
    centre: Centre = "mean",
    then: Callable[[FloatArray], FloatArray] | None = None,
    protocol: str = "",
    note: str = "",
) -> Measured:
    """Mean or median of ``values`` (m,) over test instances, NaN being degenerate, with a 95% interval.

    ``then`` is applied to the summary and to its resamples (Spearman-Brown, say). Test instances are resampled;
    the training set, the model and the ground truth stay fixed.
    """
    usable = values[np.isfinite(values)]
    protocol = sentences(f"{centre} over test instances", protocol, f"95% CI: bootstrap over test instances x{n_boot}")
    if not usable.size:
        return Measured(metric=metric, status="degenerate", protocol=protocol, note=note)
    function = np.mean if centre == "mean" else np.median
    value = np.atleast_1d(np.asarray(function(usable), dtype=np.float64))
    low, high = math.nan, math.nan
    if usable.size == 1:
        note = sentences(note, "no interval from a single test instance")
    else:
        indices = resample(rng, usable.size, n_boot)
        centres = counts_of(indices) @ usable / usable.size if centre == "mean" else np.median(usable[indices], axis=1)
        low, high = interval(then(centres) if then else centres)
    value = then(value) if then else value
    return Measured(
        metric=metric, value=float(value[0]), ci_low=low, ci_high=high, n=usable.size, protocol=protocol, note=note
    )
