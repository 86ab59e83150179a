"""Add-one-in influence: what really adding single instances does, against what was estimated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from influx.metrics.aligned import left_out
from influx.metrics.per_test import summarise
from influx.metrics.resampled import resampled_spearman
from influx.metrics.row_samples import spearman_samples
from influx.metrics.statistics import (
    FloatArray,
    constant_columns,
    counts_of,
    interval,
    mean_pairwise,
    ranks,
    resample,
    spearman_brown,
    spearman_columns,
    standardise,
)
from influx.metrics.tidy import Measured, sentences, unavailable
from influx.run import Run

NAMES = ("active_add_one_correlation", "active_add_one_sum_correlation")


def correlations(
    estimated: FloatArray, total: FloatArray, falls: FloatArray, run: Run, n_boot: int, protocol: str
) -> Iterator[Measured]:
    """Two Spearman correlations over instances that were added one at a time.

    Args:
        estimated: ``(sample, m)`` influence on the test instances that judge.
        total: ``(sample,)`` the score that ranks.
        falls: ``(sample, seeds, m)`` fall of the loss when the instance is added.
        run: draws the resamples.
        n_boot: resamples.
        protocol: what was added to what.

    Yields:
        Per test instance and then averaged; and of the score with the fall of the mean loss.
    """
    yield _per_test(estimated, falls, run, n_boot, protocol)
    yield _summed(total, falls.mean(axis=2), run, n_boot, protocol)


def _per_test(estimated: FloatArray, falls: FloatArray, run: Run, n_boot: int, protocol: str) -> Measured:
    real = falls.mean(axis=1)
    broken = np.asarray(~np.isfinite(estimated).all(axis=0))
    constant = constant_columns(estimated) | constant_columns(real)
    fit = ~(broken | constant)
    counts = counts_of(resample(run.rng("pool instances"), len(real), n_boot))
    values, samples = np.full(len(fit), np.nan), np.full((n_boot, len(fit)), np.nan)
    if fit.any():
        values[fit] = spearman_columns(estimated[:, fit], real[:, fit])
        samples[:, fit] = spearman_samples((estimated[:, fit], real[:, fit]), counts)
    return summarise(
        NAMES[0],
        values,
        rng=run.rng("test instances"),
        n_boot=n_boot,
        samples=samples,
        protocol=protocol,
        note=sentences(left_out(broken, constant), _reliability(falls[:, :, fit]) if fit.any() else ""),
    )


def _summed(score: FloatArray, falls: FloatArray, run: Run, n_boot: int, protocol: str) -> Measured:
    """Of the ranking score (sample,) with the fall of the mean loss (sample, seeds)."""
    real = falls.mean(axis=1)
    if constant_columns(score[:, None])[0] or constant_columns(real[:, None])[0]:
        note = "the added instances have the same score or the same effect"
        return unavailable(NAMES[1:], "degenerate", note, protocol)[0]
    value = float(spearman_columns(score[:, None], real[:, None])[0])
    counts = counts_of(resample(run.rng("pool instances"), len(real), n_boot))
    samples = resampled_spearman(np.stack([score, real])[:, :, None], counts)[:, 0]
    low, high = interval(np.clip(samples + (value - np.nanmean(samples)), -1.0, 1.0))
    return Measured(
        metric=NAMES[1],
        value=value,
        ci_low=low,
        ci_high=high,
        n=len(real),
        protocol=sentences(protocol, f"95% CI: bootstrap over added instances x{n_boot}; n counts these"),
        note=_reliability(falls[:, :, None]),
    )


def _reliability(falls: FloatArray) -> str:
    """How well the real effects (sample, seeds, m) agree with themselves over seeds.

    An estimate without error would correlate with their mean by the root of it.
    """
    seeds = falls.shape[1]
    if seeds < 2:
        return ""
    if (falls == falls[:, :1]).all():
        return "reliability of the effects is not applicable: seeds change nothing in these models"
    known = spearman_brown(mean_pairwise(np.stack([standardise(ranks(falls[:, s])) for s in range(seeds)])), seeds)
    reliability, most = np.nanmean(known), np.nanmean(np.sqrt(known))
    return f"reliability of the effects over {seeds} seeds: {reliability:.4f}, so that {most:.4f} can be reached"
