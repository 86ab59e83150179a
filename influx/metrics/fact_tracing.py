"""Are the training instances found that state what a test instance asks about?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import left_out
from influx.metrics.per_test import summarise
from influx.metrics.statistics import FloatArray, check_resamples, constant_columns
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("fact_mrr", "fact_recall", "fact_first")
POINTS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)  # depths at which the curve of recall is kept
FLAG = "fact"


@dataclass(frozen=True, kw_only=True)
class FactTracing:
    """Fact tracing: the training instances that state a query's fact, among all ranked by influence on the query.

    Measures: queries are the test instances whose flag ``fact`` is a number that training instances have too: those
        state it. ``fact_mrr``: mean over queries of 1 / rank of the first that states it. ``fact_recall``: mean share
        of those that state it among the k of highest influence. ``fact_first``: share of queries whose strongest
        proponent states it. Equal values have the mean of their ranks. The note gives what a random ranking expects.
        The table fact_recall has recall at other depths. To state a fact is not to influence the model: word overlap
        finds statements well (baseline bm25) whatever the model learned from.
    Not applicable: no flag ``fact``, as corruption=restated leaves it; k is more than the instances with scores.
    Degenerate: queries whose influence is constant or not finite; they are left out and counted.
    Intervals: 95% percentile bootstrap over queries.
    Cost: q·n·log n for q queries.
    Source: Akyürek et al. 2022, arXiv:2205.11482, section 3 (MRR and recall@k).

    Attributes:
        k: depth of ``fact_recall``.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    k: int = 10
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.fact_tracing.n_boot", self.n_boot)
        if self.k < 1:
            raise ConfigError(f"metric.fact_tracing.k must be at least 1, got {self.k}; 10 is usual")

    def plan(self, prospect: Prospect) -> Work:
        """Ranks of every query's column."""
        n, m = len(prospect.train), len(prospect.test)
        return Work(
            compared=n * m * float(np.log2(max(n, 2))),
            numbers=8.0 * n * m + 4.0 * self.n_boot * m,
            bytes=32.0 * n * m,
            formula=f"{n} x {m} cells ranked",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows: the names in ``NAMES``."""
        data, computed = run.problem.data, influence.computed
        if FLAG not in data.flags or FLAG not in data.test_flags:
            reason = "no test instance asks about a known fact; set corruption=restated"
            return tidy(unavailable(NAMES, "not applicable", reason))
        stated, asked = np.asarray(data.flags[FLAG])[computed], np.asarray(data.test_flags[FLAG])
        queries = np.flatnonzero((asked >= 0) & np.isin(asked, stated))
        if not len(queries):
            reason = "no test instance asks about a fact that a training instance with a score states"
            return tidy(unavailable(NAMES, "not applicable", reason))
        if self.k > len(stated):
            reason = f"metric.fact_tracing.k={self.k} is more than the {len(stated)} training instances with scores"
            return tidy(unavailable(NAMES, "not applicable", f"{reason}; lower it"))
        found = influence.values[computed][:, queries]
        broken, constant = np.asarray(~np.isfinite(found).all(axis=0)), constant_columns(found)
        usable = ~(broken | constant)
        states = stated[:, None] == asked[queries]  # (n, q)
        rank = np.full(found.shape, np.nan)
        rank[:, usable] = stats.rankdata(-found[:, usable], axis=0)
        protocol = sentences(
            f"k={self.k}, equal values have their mean rank",
            f"{len(queries)} of {len(asked)} test instances are queries",
            f"{len(stated)} of {len(computed)} training instances, {states.sum(axis=0).mean():.3g} state a query's "
            "fact on average",
        )
        rows = self._rows(rank, states, run, protocol, left_out(broken, constant))
        return tidy(rows, tables={"fact_recall": _curve(rank, states)} if usable.any() else None)

    def _rows(self, rank: FloatArray, states: NDArray[np.bool_], run: Run, protocol: str, note: str) -> list[Measured]:
        """The numbers in the order of ``NAMES``; NaN ranks are those of queries left out."""
        n, count = len(states), states.sum(axis=0)
        best = np.where(states, rank, np.inf).min(axis=0)
        best[np.isnan(rank[0])] = np.nan
        first = np.where(np.isnan(best), np.nan, best <= 1)
        numbers = (1 / best, recall(rank, states, self.k), first)
        chance = (np.mean([reciprocal(n, int(c)) for c in count]), self.k / n, count.mean() / n)
        return [
            summarise(
                name,
                found,
                rng=run.rng("queries"),
                n_boot=self.n_boot,
                lowest=0.0,
                protocol=protocol,
                note=sentences(f"random ranking: {random:.4f}", note),
            )
            for name, found, random in zip(NAMES, numbers, chance, strict=True)
        ]


def recall(rank: FloatArray, states: NDArray[np.bool_], k: int) -> FloatArray:
    """``(q,)`` share of what states a query's fact that has rank k or better; NaN where ranks are."""
    share = (states & (rank <= k)).sum(axis=0) / states.sum(axis=0)
    return np.asarray(np.where(np.isnan(rank[0]), np.nan, share))


def reciprocal(n: int, count: int) -> float:
    """Expected 1 / rank of the first of ``count`` instances in a random order of n.

    The first has rank above r with probability Π_{s<r} (n - count - s) / (n - s).
    """
    s = np.arange(n - count + 1)
    above = np.concatenate([[1.0], np.cumprod((n - count - s[:-1]) / (n - s[:-1]))])  # P(rank > s)
    return float((above * count / (n - s) / (s + 1)).sum())


def _curve(rank: FloatArray, states: NDArray[np.bool_]) -> pd.DataFrame:
    """Mean recall at some depths."""
    import pandas as pd

    depths = [k for k in POINTS if k < len(rank)] + [len(rank)]
    found = [float(np.nanmean(recall(rank, states, k))) for k in depths]
    return pd.DataFrame({"series": "recall", "depth": depths, "recall": found})
