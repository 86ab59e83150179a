"""Mean truth against the size of the estimate: do larger estimates mean larger effects?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influx.reporting import agreement, series
from influx.reporting.markup import Markup, tag, text
from influx.reporting.record import RunRecord
from influx.reporting.text import clean

PAIRS = 100_000
BINS = 10
WIDTH_OF_CI = 1.959963984540054  # standard errors on either side, normal


def tenths(
    truth: NDArray[np.float64], estimate: NDArray[np.float64], bins: int = BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Means of ``estimate`` and ``truth`` (n,) in groups of equal size by estimate, and standard errors of the latter.

    Returns:
        Three arrays ``(bins,)``, shorter where there are fewer values.
    """
    order = np.argsort(estimate, kind="stable")
    groups = [group for group in np.array_split(order, bins) if len(group) > 1]
    at = np.array([estimate[group].mean() for group in groups])
    mean = np.array([truth[group].mean() for group in groups])
    error = np.array([truth[group].std(ddof=1) / np.sqrt(len(group)) for group in groups])
    return at, mean, error


def figure(record: RunRecord, key: str) -> Markup:
    """The plot, or nothing where too few pairs are known."""
    truth, estimate = agreement.sampled_pairs(record, PAIRS)
    if len(truth) < 5 * BINS or not np.ptp(estimate) > 0:
        return Markup("")
    at, mean, error = tenths(truth, estimate)
    reach = WIDTH_OF_CI * error
    own, name = clean(record.estimator), clean(record.truth_name)
    curve = series.Curve(name=own, x=at, y=mean, low=mean - reach, high=mean + reach, colour=0, dash=0)
    plot = series.curves(
        [curve],
        labels=(f"{own}: mean estimate of a tenth", f"mean {name}"),
        title="Calibration",
        description=f"Mean {name} in {len(at)} groups of equal size by estimate, from {mean[0]:.3g} to {mean[-1]:.3g}.",
        key=f"{key}-calibration",
    )
    told = (
        f"Mean {name} of {len(truth):,} pairs in tenths by estimate, with 95% bands that count pairs as independent. "
        "A rising line orders effects well"
    )
    told += "; its slope is 1 where their size is right too." if record.scale == "loss" else "."
    return tag("figure", plot, text("figcaption", told))
