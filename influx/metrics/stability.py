"""Does influence stay when only the seed of training changes?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.influence import Influence
from influx.metrics.aligned import MIN_ROWS, left_out
from influx.metrics.per_test import summarise
from influx.metrics.rankings import (
    chance_jaccard,
    jaccard,
    parts_of_variance,
    rank_biased_overlap,
    tied_at,
    tied_weight,
)
from influx.metrics.statistics import (
    FloatArray,
    check_resamples,
    constant_columns,
    mean_pairwise,
    ranks,
    standardise,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

TIED = 0.01  # weight of tied ranks in rank-biased overlap from which on it is not told
NAMES = (
    "stability_spearman",
    "stability_jaccard",
    "stability_rbo",
    "stability_icc",
    "stability_icc_mean",
    "stability_part_instances",
    "stability_part_seeds",
    "stability_part_rest",
)


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Agreement of an estimator with itself over trainings that differ in initialisation and batch order.

    Measures: per test instance, averaged over pairs of seeds and then over test instances: Spearman correlation;
        ``jaccard``, |A ∩ B| / |A ∪ B| of the k strongest proponents; ``rbo``, rank-biased overlap, which weighs rank d
        by ``persistence``^(d-1). ``icc``: correlation of one seed's influence with another's from the variance
        components (intraclass, consistency); ``icc_mean``: of expected influence, the mean over all seeds, with that
        over as many others. ``part_instances``, ``part_seeds``, ``part_rest``: shares of the variance between training
        instances, between seeds and of both together, by the method of moments, not below 0. An estimator's own draws
        change with the seed. The first training is the problem's own.
    Not applicable: training without randomness.
    Degenerate: test instances whose influence is constant or not finite under any seed; for ``jaccard`` those with a
        tie at the k-th place, for ``rbo`` those with ties at ranks of more than 1% of the weight, since an order of
        ties by row index would agree with itself. They are left out and counted. All, if a training diverges.
    Intervals: 95% percentile bootstrap over test instances; the seeds stay.
    Cost: ``seeds`` - 1 more trainings of the problem, shared by all estimators, and as many estimates.
    Source: Webber et al. 2010 for rank-biased overlap; survey section 3.2 (5) for expected influence; Shrout & Fleiss
        1979, ICC(3, 1) and ICC(3, k).

    Attributes:
        seeds: trainings, the first being the problem's own.
        k: proponents in a set.
        persistence: p of rank-biased overlap; 0.9 gives the first ten ranks 86% of the weight.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    seeds: int = 3
    k: int = 10
    persistence: float = 0.9
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.stability.n_boot", self.n_boot)
        for name, value, least in (("seeds", self.seeds, 2), ("k", self.k, 1)):
            if value < least:
                raise ConfigError(f"metric.stability.{name} must be at least {least}, got {value}; raise it")
        if not 0 < self.persistence < 1:
            raise ConfigError(
                f"metric.stability.persistence must be between 0 and 1, got {self.persistence}; 0.9 is usual"
            )

    def plan(self, prospect: Prospect) -> Work:
        """Other trainings of the problem, and orders of their columns; the estimates are not counted."""
        n, m = len(prospect.train), len(prospect.test)
        return Work(
            more_trainings=float(self.seeds - 1),
            more_alone=float(self.seeds - 1),
            compared=3.0 * self.seeds * n * m * float(np.log2(max(n, 2))),
            numbers=(30.0 * self.seeds + 20.0) * n * m,
            bytes=8.0 * (3.0 * self.seeds + 4.0) * n * m,
            formula=f"{self.seeds - 1} more trainings of the problem; {self.seeds} x {n} x {m} cells ordered",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Eight rows: the names in ``NAMES``."""
        found = [influence]
        for number in range(1, self.seeds):
            try:
                found.append(run.again.trained(number))
            except IncompatibleError as error:
                return tidy(unavailable(NAMES, "not applicable", str(error)))
            except NumericalError as error:
                reason = f"training {number + 1} of {self.seeds}, with another seed: {error}"
                return tidy(unavailable(NAMES, "degenerate", reason))
        rows = np.all([one.computed for one in found], axis=0)
        if rows.sum() <= max(MIN_ROWS, self.k):
            reason = (
                f"metric.stability.k={self.k} needs more training instances with scores than the {int(rows.sum())} "
                "that there are under every seed; lower it"
            )
            return tidy(unavailable(NAMES, "not applicable", reason))
        values = np.stack([np.asarray(one.values[rows], dtype=np.float64) for one in found])  # (seeds, n, m)
        broken = np.asarray(~np.isfinite(values).all(axis=(0, 1)))
        constant = np.any([constant_columns(one.values[rows]) for one in found], axis=0)
        protocol = sentences(
            f"{self.seeds} trainings that differ in initialisation, batch order and the estimator's own draws",
            f"{int(rows.sum())} of {len(rows)} training instances",
        )
        usable = values[:, :, ~(broken | constant)]
        return tidy(self._rows(usable, run, protocol, left_out(broken, constant)))

    def _rows(self, values: FloatArray, run: Run, protocol: str, note: str) -> Iterator[Measured]:
        n, parts = values.shape[1], parts_of_variance(values)
        whole = parts.instances + parts.seeds + parts.rest
        whole = np.where(whole > 0, whole, np.nan)
        tied = np.any([tied_at(each, self.k) for each in values], axis=0)
        open_ = np.any([tied_weight(each, self.persistence) > TIED for each in values], axis=0)
        common = np.where(tied, np.nan, jaccard(list(values), self.k))
        overlap = np.where(open_, np.nan, rank_biased_overlap(list(values), self.persistence))
        random_jaccard = f"{chance_jaccard(n, self.k):.4f}"
        random_overlap = f"{(1 - self.persistence) * self._expected(n):.4f}"
        measures: tuple[tuple[FloatArray, float, str, str], ...] = (
            (mean_pairwise(np.stack([standardise(ranks(each)) for each in values])), -1.0, "Spearman", "0"),
            (common, 0.0, f"k={self.k}, no tie at that place", random_jaccard),
            (overlap, 0.0, f"p={self.persistence:g}, ties at no more than {TIED:.0%} of the weight", random_overlap),
            (parts.repeat, -1.0, "one seed with another", "0"),
            (parts.mean, -1.0, f"mean over {self.seeds} seeds with another such mean", ""),
            (parts.instances / whole, 0.0, "share of the variance", ""),
            (parts.seeds / whole, 0.0, "share of the variance", ""),
            (parts.rest / whole, 0.0, "share of the variance", ""),
        )
        lost = {
            name: f"{int(where.sum())} of {len(where)} test instances left out for ties"
            for name, where in (("stability_jaccard", tied), ("stability_rbo", open_))
            if where.any()
        }
        for name, (found, lowest, said, random) in zip(NAMES, measures, strict=True):
            yield summarise(
                name,
                found,
                rng=run.rng("test instances"),
                n_boot=self.n_boot,
                lowest=lowest,
                protocol=sentences(said, protocol),
                note=sentences(f"random rankings: {random}" if random else "", note, lost.get(name, "")),
            )

    def _expected(self, n: int) -> float:
        """Rank-biased overlap of two random rankings of n, over 1 - p: of d ranks, d²/n are common."""
        depth = np.arange(1, n + 1)
        p = self.persistence
        return float((p ** (depth - 1) * depth / n).sum() + p**n / (1 - p))
