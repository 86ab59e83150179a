"""Noise ceiling: how well the ground truth agrees with itself when only the training seed changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.influence import Influence
from influx.metrics.aligned import MIN_ROWS, Unavailable, averaged_seeds, left_out
from influx.metrics.per_test import summarise
from influx.metrics.row_samples import pearson_samples, row_counts, spearman_samples
from influx.metrics.statistics import (
    FloatArray,
    check_resamples,
    constant_columns,
    mean_pairwise,
    ranks,
    spearman_brown,
    standardise,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("ceiling_pearson", "ceiling_spearman", "ceiling_spearman_mean")


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """The ground truth of single training seeds.

    Attributes:
        truths: of each seed, (rows, m), on those of ``n_train`` training instances that have the truth of every seed.
        averaged: how many seeds the ground truth itself is a mean over.
        protocol: these numbers in words.
    """

    truths: list[NDArray[Any]]
    n_train: int
    averaged: int
    protocol: str


def of_seeds(truth: Influence | None) -> Seeds | Unavailable:
    """Truths to be held against each other, or why there are none."""
    if truth is None:
        return Unavailable(status="not applicable", note="no ground truth: truth=none")
    replicates = truth.replicates
    count = len(replicates)
    if not count and "protocol" in truth.report:
        note = "this ground truth does not depend on training seeds"
        return Unavailable(status="not applicable", note=note)
    if count < 2:
        return Unavailable(status="not applicable", note="truth.seeds=1: a ceiling needs at least 2 seeds")
    rows = ~np.any([np.isnan(values).all(axis=1) for values in replicates], axis=0)
    if rows.sum() < MIN_ROWS:
        note = f"a ceiling needs {MIN_ROWS} training instances computed in every seed, there are {int(rows.sum())}"
        return Unavailable(status="not applicable", note=note)
    protocol = sentences(
        f"correlation averaged over {count * (count - 1) // 2} pairs of {count} truth seeds",
        f"{int(rows.sum())} of {len(rows)} training instances, {replicates[0].shape[1]} test instances",
    )
    truths = [values[rows] for values in replicates]
    return Seeds(truths=truths, n_train=len(rows), averaged=averaged_seeds(truth), protocol=protocol)


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Agreement of the ground truth with itself over training seeds; the estimator plays no part.

    Measures: per test instance, the correlation between the truths of two seeds, averaged over all pairs of
        seeds and then over test instances: what an estimate as noisy as one seed's truth reaches.
        ``ceiling_spearman_mean`` is the reliability of the ground truth, a mean over k seeds, by Spearman-Brown,
        k r / (1 + (k - 1) r): what another mean over k fresh seeds would reach.
    Intervals: 95% percentile bootstrap over test instances; if only some training instances have the truth of every
        seed, over these too.
    Cost: k·n·m·log n; k²·n_boot·n·m where training instances are resampled.
    Source: Spearman (1910), Brown (1910) for the correction.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    n_boot: int = 1000

    def __post_init__(self) -> None:
        check_resamples("metric.ceiling.n_boot", self.n_boot)

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows: the names in ``NAMES``. ``influence`` is not used."""
        del influence
        seeds = of_seeds(run.truth)
        if isinstance(seeds, Unavailable):
            return tidy(unavailable(NAMES, seeds.status, seeds.note))
        counts = row_counts(run.rng("training instances"), len(seeds.truths[0]), seeds.n_train, self.n_boot)
        return tidy(self._rows(seeds.truths, counts, seeds.averaged, seeds.protocol, run))

    def _rows(
        self, replicates: list[NDArray[Any]], counts: FloatArray | None, averaged: int, protocol: str, run: Run
    ) -> Iterator[Measured]:
        broken = ~np.all([np.isfinite(values).all(axis=0) for values in replicates], axis=0)
        constant = np.any([constant_columns(values) for values in replicates], axis=0)
        usable = [values[:, ~(broken | constant)] for values in replicates]
        pearson = mean_pairwise(np.stack([standardise(values) for values in usable]))
        spearman = mean_pairwise(np.stack([standardise(ranks(values)) for values in usable]))
        note = left_out(broken, constant)
        root = (
            f"mean over {averaged} seeds; a noise-free estimate of the expected influence would reach its square root"
        )
        corrected = partial(spearman_brown, count=averaged)
        first = None if counts is None else pearson_samples(usable, counts)
        second = None if counts is None else spearman_samples(usable, counts)
        measures = (
            (pearson, first, note, None),
            (spearman, second, note, None),
            (spearman, second, sentences(note, root), corrected),
        )
        for name, (values, samples, remark, then) in zip(NAMES, measures, strict=True):
            yield summarise(
                name,
                values,
                rng=run.rng("test instances"),
                n_boot=self.n_boot,
                samples=samples,
                then=then,
                protocol=protocol,
                note=remark,
            )
