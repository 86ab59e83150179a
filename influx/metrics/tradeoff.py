"""Does an estimator rank by the size of gradients, and does it name the same instances for every test instance?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import MIN_ROWS, left_out
from influx.metrics.per_test import summarise
from influx.metrics.ranking import top
from influx.metrics.resampled import resampled_spearman
from influx.metrics.row_samples import pearson_samples
from influx.metrics.statistics import (
    FloatArray,
    check_resamples,
    constant_columns,
    counts_of,
    interval,
    pearson_columns,
    resample,
    spearman_columns,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("spearman", "pearson")
SIZES = {"norm": "gradient norm", "loss": "loss"}
EACH = tuple(f"tradeoff_{size}_spearman_each" for size in SIZES)
LISTS = ("tradeoff_same_topk", "tradeoff_distinct", "tradeoff_most", "tradeoff_norm_spearman_topk")
SCORES = {
    "self": "self-influence",
    "sum": "absolute influence summed over test instances",
}


def names(score: str) -> list[str]:
    """Metric names of one score: ``self`` or ``sum``."""
    return [f"tradeoff_{size}_{kind}_{score}" for size in SIZES for kind in KINDS]


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """Magnitude against direction: how far an estimator follows the size of training gradients and losses.

    Measures: Spearman and Pearson correlation over training instances of their gradient's norm, and of their loss, with
        self-influence (``_self``) and with Σ_j |influence[i, j]| (``_sum``); ``_each``: the median over test instances
        of the Spearman correlation with |influence[i, j]| on one of them. Of the k largest influences of each test
        instance (its list): ``tradeoff_same_topk``, the share of test instances with the list, as a set, that most of
        them have; ``tradeoff_distinct``, distinct training instances in all lists over what there could be,
        min(n, k·m): 1 if no two lists share one; ``tradeoff_most``, the share of lists that hold the training
        instance in most lists, a global outlier if it is 1; ``tradeoff_norm_spearman_topk``, the Spearman
        correlation of the gradient's norm with the number of lists.
    Intervals: 95% percentile bootstrap over training instances for correlations, over test instances for ``_each``,
        the training instances being fixed. For shares of lists over test instances, except ``tradeoff_distinct``,
        which grows with their number and has none; the list and the instance that most have stay the chosen ones in
        all resamples, so that the intervals of ``tradeoff_same_topk`` and ``tradeoff_most`` are about these and not
        about whichever is the most frequent.
    Degenerate: constant scores or sizes. Training instances without scores are left out.
    Needs: gradients at the final parameters.
    Cost: n gradients, n·m·log n, n_boot·n.
    Source: survey section 5.3; Barshan et al. 2020, arXiv:2003.11630, for globally influential instances.

    Attributes:
        k: length of a list.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})

    k: int = 10
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.tradeoff.n_boot", self.n_boot)
        if self.k < 1:
            raise ConfigError(f"metric.tradeoff.k must be at least 1, got {self.k}; 10 is usual")

    def plan(self, prospect: Prospect) -> Work:
        """Gradients, one order of every column, and the resamples."""
        n, m = len(prospect.train), len(prospect.test)
        return Work(
            gradients=float(n),
            compared=n * m * float(np.log2(max(n, 2))),
            numbers=4.0 * n * m + 100.0 * self.n_boot * n,
            bytes=16.0 * n * m + 64.0 * self.n_boot * n,
            formula=f"{n} x {m} cells ordered",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Fourteen rows: four correlations of each score, the two of ``EACH`` and the four of ``LISTS``."""
        everything = [*names("self"), *names("sum"), *EACH, *LISTS]
        computed = influence.computed
        if computed.sum() < MIN_ROWS:
            note = f"a comparison needs {MIN_ROWS} training instances with scores, there are {int(computed.sum())}"
            return tidy(unavailable(everything, "not applicable", note))
        values = np.asarray(influence.values[computed], dtype=np.float64)
        squares = run.gradients.at(run.final).squares(run.train).cpu().numpy()
        sizes = {"norm": np.sqrt(squares)[computed], "loss": run.outcomes(run.train).loss[computed]}
        coverage = f"{len(values)} of {len(computed)} training instances"
        if influence.self_influence is None or influence.self_influence_note:
            reason = influence.self_influence_note or "this estimator gives no self-influence"
            rows = unavailable(names("self"), "not applicable", reason)
        else:
            rows = list(self._correlations("self", influence.self_influence[computed], sizes, run, coverage))
        rows += self._correlations("sum", np.abs(values).sum(axis=1), sizes, run, coverage)
        rows += self._each(values, sizes, run, coverage)
        return tidy([*rows, *self._lists(values, sizes["norm"], run, coverage)])

    def _correlations(
        self, score: str, values: NDArray[Any], sizes: dict[str, FloatArray], run: Run, coverage: str
    ) -> Iterator[Measured]:
        for size, kind in ((size, kind) for size in SIZES for kind in KINDS):
            said = f"{SIZES[size]} with {SCORES[score]}"
            yield self._correlation(f"tradeoff_{size}_{kind}_{score}", kind, sizes[size], values, run, coverage, said)

    def _correlation(
        self, name: str, kind: str, size: FloatArray, values: NDArray[Any], run: Run, coverage: str, said: str
    ) -> Measured:
        protocol = sentences(
            said, coverage, f"n: training instances; 95% CI: bootstrap over training instances x{self.n_boot}"
        )
        pair = np.stack([size, np.asarray(values, dtype=np.float64)])[:, :, None]  # (2, K, 1)
        if not np.isfinite(pair).all():
            return unavailable([name], "degenerate", "a score is not finite", protocol)[0]
        if any(constant_columns(one)[0] for one in pair):
            return unavailable([name], "degenerate", "all training instances have the same score", protocol)[0]
        counts = counts_of(resample(run.rng("training instances"), pair.shape[1], self.n_boot))
        of = spearman_columns if kind == "spearman" else pearson_columns
        samples = resampled_spearman(pair, counts) if kind == "spearman" else pearson_samples(list(pair), counts)
        low, high = interval(samples)
        value = float(of(pair[0], pair[1])[0])
        return Measured(metric=name, value=value, ci_low=low, ci_high=high, n=pair.shape[1], protocol=protocol)

    def _each(self, values: FloatArray, sizes: dict[str, FloatArray], run: Run, coverage: str) -> Iterator[Measured]:
        broken = np.asarray(~np.isfinite(values).all(axis=0))
        constant = ~broken & constant_columns(np.abs(values))
        magnitudes = np.abs(values[:, ~(broken | constant)])
        note = left_out(broken, constant)
        for name, (size, said) in zip(EACH, SIZES.items(), strict=True):
            fits = np.isfinite(sizes[size]).all() and not constant_columns(sizes[size][:, None])[0]
            found = spearman_columns(magnitudes, sizes[size][:, None]) if fits else np.full(magnitudes.shape[1], np.nan)
            yield summarise(
                name,
                found,
                rng=run.rng("test instances"),
                n_boot=self.n_boot,
                centre="median",
                protocol=sentences(f"{said} with absolute influence on one test instance", coverage),
                note=note if fits else sentences(f"the {said} is constant or not finite", note),
            )

    def _lists(self, values: FloatArray, norm: FloatArray, run: Run, coverage: str) -> Iterator[Measured]:
        n, m = values.shape
        broken = ~np.isfinite(values).all(axis=0) | constant_columns(values)
        if self.k >= n or broken.all():
            note = f"metric.tradeoff.k={self.k} covers all {n} training instances; lower it"
            note = note if self.k >= n else "the scores of every test instance are constant or not finite"
            yield from unavailable(LISTS, "not applicable" if self.k >= n else "degenerate", note)
            return
        best = top(values[:, ~broken], self.k)  # (k, m)
        member = np.zeros((n, best.shape[1]))
        np.put_along_axis(member, best, 1.0, axis=0)
        keys = [column.tobytes() for column in np.sort(best, axis=0).T.copy()]
        common = Counter(keys).most_common(1)[0][0]
        often = member.sum(axis=1)
        note = f"{int(broken.sum())} of {m} test instances constant or not finite and left out" if broken.any() else ""
        protocol = sentences(f"k={self.k}, ties by row index", coverage)
        weights = counts_of(resample(run.rng("test instances"), best.shape[1], self.n_boot)) / best.shape[1]
        over = sentences(protocol, f"95% CI: bootstrap over test instances x{self.n_boot}")
        for name, shares in ((LISTS[0], np.array([key == common for key in keys])), (LISTS[2], member[often.argmax()])):
            low, high = interval(weights @ shares)
            value, count = float(shares.mean()), len(keys)
            yield Measured(metric=name, value=value, ci_low=low, ci_high=high, n=count, protocol=over, note=note)
        distinct, possible = int((often > 0).sum()), min(n, self.k * len(keys))
        said = sentences(f"{distinct} distinct training instances in {len(keys)} lists", note)
        yield Measured(metric=LISTS[1], value=distinct / possible, n=len(keys), protocol=protocol, note=said)
        said = "gradient norm with the number of lists that an instance is in"
        yield self._correlation(LISTS[3], "spearman", norm, often, run, sentences(f"k={self.k}", coverage), said)
