"""Are the training instances found that state what a test instance asks about?"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from influx.metrics.unfairness import wilson
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
        proponent states it. Of instances with equal values the order is taken to be random, and the measures are what
        that gives on average. The note gives what a random ranking expects.
        The table fact_recall has recall at other depths. To state a fact is not to influence the model: word overlap
        finds statements well (baseline bm25) whatever the model learned from.
    Not applicable: no flag ``fact``, as corruption=restated leaves it; k is more than the instances with scores.
    Degenerate: queries whose influence is constant or not finite; they are left out and counted.
    Intervals: 95% percentile bootstrap over queries; Wilson's for shares of queries, which are ``fact_first``, and
        ``fact_recall`` where one instance states each fact or all queries agree.
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
        places = Places.of(found, usable)
        asking = int((asked >= 0).sum())
        protocol = sentences(
            f"k={self.k}, equal values in random order",
            f"{len(queries)} of {len(asked)} test instances are queries",
            f"{len(stated)} of {len(computed)} training instances, {states.sum(axis=0).mean():.3g} state a query's "
            "fact on average",
        )
        note = left_out(broken, constant)
        if asking > len(queries):
            note = sentences(note, f"{asking - len(queries)} of {asking} queries have no statement with a score")
        rows = self._rows(places, states, run, protocol, note)
        return tidy(rows, tables={"fact_recall": _curve(places, states)} if usable.any() else None)

    def _rows(self, places: Places, states: NDArray[np.bool_], run: Run, protocol: str, note: str) -> list[Measured]:
        """The numbers in the order of ``NAMES``."""
        n, count = len(states), states.sum(axis=0)
        reciprocals, first = found_first(places, states)
        numbers = (reciprocals, recall(places, states, self.k), first)
        chance = (np.mean([reciprocal(n, int(c)) for c in count]), self.k / n, count.mean() / n)
        rows = [
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
        reciprocal_ranks, recalls, firsts = rows
        if count.max() == 1 or recalls.value in (0.0, 1.0):  # a share of queries
            recalls = _by_wilson(recalls, protocol)
        return [reciprocal_ranks, recalls, _by_wilson(firsts, protocol)]


def _by_wilson(row: Measured, protocol: str) -> Measured:
    """A share of queries: where it is 0 or 1 all resamples agree, and are no interval."""
    if row.status != "ok":
        return row
    low, high = wilson(row.value, row.n)
    protocol = sentences("mean over test instances", protocol, "95% CI: Wilson")
    return replace(row, ci_low=low, ci_high=high, protocol=protocol)


@dataclass(frozen=True)
class Places:
    """``above`` and ``equal`` (n, q): instances of higher and of the same value, itself counted; NaN if left out."""

    above: FloatArray
    equal: FloatArray

    @classmethod
    def of(cls, values: NDArray[np.floating], usable: NDArray[np.bool_]) -> Places:
        """Of values (n, q) the usable columns."""
        above, equal = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
        above[:, usable] = stats.rankdata(-values[:, usable], method="min", axis=0) - 1
        equal[:, usable] = stats.rankdata(-values[:, usable], method="max", axis=0) - above[:, usable]
        return cls(above, equal)


def found_first(places: Places, states: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """``(q,)`` expected 1 / rank of the first that states a query's fact, and the probability that it is rank 1."""
    above = np.where(states, places.above, np.inf).min(axis=0)
    there = places.above == above  # those that share its value
    count, equal = (there & states).sum(axis=0), there.sum(axis=0)
    which = (above, equal, count)
    ranks = [reciprocal(int(t), int(c), int(a)) if t else np.nan for a, t, c in zip(*which, strict=True)]
    first = np.where(above == 0, count / np.maximum(equal, 1), 0.0)
    return np.array(ranks), np.where(equal == 0, np.nan, first)


def recall(places: Places, states: NDArray[np.bool_], k: int) -> FloatArray:
    """``(q,)`` expected share of what states a query's fact that has rank k or better; NaN where places are."""
    within = np.clip((k - places.above) / places.equal, 0.0, 1.0)  # probability of rank k or better
    return np.asarray((states * within).sum(axis=0) / states.sum(axis=0))


def reciprocal(n: int, count: int, above: int = 0) -> float:
    """Expected 1 / rank of the first of ``count`` instances in a random order of n, with ``above`` others before all.

    The first is behind s others of the n with probability Π_{r<s} (n - count - r) / (n - r).
    """
    s = np.arange(n - count + 1)
    behind = np.concatenate([[1.0], np.cumprod((n - count - s[:-1]) / (n - s[:-1]))])  # s others at least
    return float((behind * count / (n - s) / (above + s + 1)).sum())


def _curve(places: Places, states: NDArray[np.bool_]) -> pd.DataFrame:
    """Mean recall at some depths."""
    import pandas as pd

    depths = [k for k in POINTS if k < len(states)] + [len(states)]
    found = [float(np.nanmean(recall(places, states, k))) for k in depths]
    return pd.DataFrame({"series": "recall", "depth": depths, "recall": found})
