"""Noise ceiling of a number that retraining gives: what part of it returns under other training seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influx.metrics.aligned import MIN_ROWS
from influx.metrics.row_samples import pearson_samples
from influx.metrics.statistics import (
    FloatArray,
    constant_columns,
    interval,
    mean_pairwise,
    spearman_brown,
    standardise,
)
from influx.metrics.tidy import Measured, sentences, unavailable

NO_RETURN = "seeds agree no better than by chance, correlation {:.3f}: a share of variance cannot be negative"


def reliability(
    name: str,
    effects: FloatArray,
    counts: FloatArray,
    *,
    setting: str,
    what: str,
    units: str,
    protocol: str = "",
    groups: NDArray[np.int64] | None = None,
) -> Measured:
    """Correlation of single seeds over what they were measured on, corrected by Spearman-Brown to the mean over all.

    It says what part of the differences between test instances, in a mean over these seeds, would be found in a mean
    over as many fresh ones. It does not bound the mean over test instances itself.

    Args:
        name: of the row.
        effects: ``(seeds, units)`` the metric's effect under each seed.
        counts: ``(n_boot, groups)`` how often, or with what share, each group of units is in a resample.
        setting: that says how many seeds there are, for the reason where one is too few.
        what: is correlated, for the protocol.
        units: what the effects are over, for the protocol.
        protocol: further sentences on how the metric was measured.
        groups: ``(units,)`` the group of each unit; None where each is its own.
    """
    seeds, size = effects.shape
    if seeds < 2:
        note = f"{setting}={seeds}: a ceiling needs at least 2 seeds"
        return unavailable([name], "not applicable", note, protocol)[0]
    n = counts.shape[1]
    over = f"95% CI: bootstrap over {units} x{len(counts)}, seeds as given"
    pairs = f"{seeds * (seeds - 1) // 2} pair{'s' if seeds > 2 else ''} of seeds"
    protocol = sentences(
        f"correlation of {what}, mean over {pairs}, by Spearman-Brown to the mean over {seeds}", over, protocol
    )
    if min(n, size) < MIN_ROWS:
        note = f"a correlation needs {MIN_ROWS} {units}, there are {n}"
        return unavailable([name], "not applicable", note, protocol)[0]
    if not np.isfinite(effects).all():
        return unavailable([name], "degenerate", f"not finite: {what}", protocol)[0]
    constant = int(constant_columns(effects.T).sum())
    if constant:
        note = f"without spread under {constant} of {seeds} seeds: {what}"
        return unavailable([name], "degenerate", note, protocol)[0]
    arrays = effects[:, :, None]
    correlation = float(mean_pairwise(np.stack([standardise(values) for values in arrays]))[0])
    drawn = counts if groups is None else counts[:, groups]
    weights = drawn * (size / drawn.sum(axis=1, keepdims=True))  # of mean 1, as the rows of a resample
    low, high = interval(spearman_brown(pearson_samples(list(arrays), weights)[:, 0], seeds))
    return Measured(
        metric=name,
        value=float(spearman_brown(correlation, seeds)),
        ci_low=low,
        ci_high=high,
        n=n,
        protocol=protocol,
        note=NO_RETURN.format(correlation) if correlation <= 0 else "",
    )
