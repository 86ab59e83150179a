"""Query loss difference: does a test instance miss its own strongest proponents more than random instances?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import left_out, unscored
from influx.metrics.banks import (
    BankName,
    check_bank,
    distinct_seeds,
    named,
    paired,
    queries,
    removed,
    retrained,
    stated,
)
from influx.metrics.ranking import top
from influx.metrics.refit import Rows, check_seeds, check_shares, signed, weights_of
from influx.metrics.reliability import reliability
from influx.metrics.statistics import (
    FloatArray,
    check_resamples,
    constant_columns,
    counts_of,
    interval,
    resample,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("qld", "qld_removed", "qld_random", "qld_ceiling")
SHARE = "metric.qld.share"


@dataclass(frozen=True, kw_only=True)
class QueryLossDifference:
    """Query loss difference (QLD).

    Measures: for each query, a test instance, the ``share`` of the training instances with the highest influence on it
        is removed and models are trained anew. ``qld``: the query's loss under them minus its loss under models
        trained without as many random instances, averaged over seeds and queries; 0 by chance, positive when the
        removed ones helped. ``qld_removed`` and ``qld_random`` are both losses minus that of models trained on
        everything. ``qld_ceiling`` is the reliability of ``qld``: the correlation of single seeds over queries,
        corrected by Spearman-Brown to the mean over all.
    Intervals: 95% percentile bootstrap over queries, seeds and random sets together, widened for the number of seeds
        and of sets; missing for a single query. A single seed or set has no luck of its own in it. The ceiling takes
        seeds and sets as given.
    Degenerate: queries whose scores are constant or not finite; they are counted in the note. The ceiling of
        effects without spread.
    Not applicable: training instances whose scores were not computed; the ceiling of one seed.
    Needs: retraining.
    Cost: per estimator tests · seeds trainings; controls · seeds without random sets, seeds on everything.
    Source: removal of the training instances that were retrieved for a test instance, as in Park et al. 2023,
        arXiv:2303.14186, in units of loss; all queries have the same random sets.

    Attributes:
        share: of the training instances, removed for each query.
        tests: at most this many queries, drawn from one half of the test instances; null takes that half.
        controls: random sets.
        seeds: trainings of every condition.
        bank: test, or tune for other queries and models, which never judge.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    share: float = 0.05
    tests: int | None = 30
    controls: int = 10
    seeds: int = 1
    bank: BankName = "test"
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_shares(SHARE, [self.share], most=0.9)
        check_seeds("metric.qld.seeds", self.seeds)
        check_bank("metric.qld.bank", self.bank)
        check_resamples("metric.qld.n_boot", self.n_boot)
        for name, value, least in (
            ("tests", 2 if self.tests is None else self.tests, 2),
            ("controls", self.controls, 1),
        ):
            if value < least:
                raise ConfigError(f"metric.qld.{name} must be at least {least}, got {value}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """Trainings without random sets and on everything, and one per query and seed."""
        asked = queries(prospect, self.bank, self.tests)
        return Work(
            trainings=(paired(self._controls(prospect), self.bank, self.seeds),),
            own_trainings=float(len(asked) * distinct_seeds(prospect, self.seeds)),
            numbers=self.n_boot * self.seeds * (3.0 * (self.controls + 1) + self.seeds) * len(asked),
            bytes=16.0 * self.seeds * (self.controls + len(asked) + 1) * (len(prospect.train) + len(asked)),
            formula=f"{self.seeds} seeds x ({len(asked)} queries of each estimator + {self.controls} random sets + 1)",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Four rows: the names in ``NAMES``."""
        asked, protocol = queries(run, self.bank, self.tests), self._protocol(run)
        if missing := unscored(influence):
            return tidy(unavailable(NAMES, missing.status, missing.note, protocol))
        values = np.asarray(influence.values[:, asked])
        broken = ~np.isfinite(values).all(axis=0)
        constant = constant_columns(values)
        usable = ~(broken | constant)
        note = left_out(broken, constant)
        if not usable.any():
            return tidy(unavailable(NAMES, "degenerate", note, protocol))
        chosen, kept, sets = asked[usable], self._weights(values[:, usable], run), self._controls(run)
        own = self._losses(run, kept, chosen[:, None], "retraining without proponents")[:, :, 0]
        everywhere = np.tile(chosen, (len(sets), 1))
        shared = self._losses(run, sets, everywhere, "retraining without random sets")
        full, random = shared[:, 0], shared[:, 1:]
        samples = _Samples(run, self, len(chosen))
        return tidy(
            [
                samples.measured("qld", own[:, None], random, protocol, sentences(_moves(own, random, full), note)),
                samples.measured("qld_removed", own[:, None], full[:, None], protocol, note),
                samples.measured("qld_random", random, full[:, None], protocol, note),
                reliability(
                    "qld_ceiling",
                    own - random.mean(axis=1),
                    samples.queries,
                    setting="metric.qld.seeds",
                    what="loss above random removal",
                    units="queries",
                    protocol=protocol.partition("; 95% CI")[0],
                ),
            ]
        )

    def _count(self, n: int) -> int:
        return removed([self.share], n, SHARE)[0]

    def _weights(self, values: NDArray[np.floating], run: Run) -> NDArray[np.uint8]:
        """``(queries, n)`` without each query's own proponents."""
        best: Rows = top(np.asarray(values, np.float64), self._count(len(values)), run.train.ids)  # (k, queries)
        return weights_of(len(values), best.T, 0)

    def _controls(self, run: Run | Prospect) -> NDArray[np.uint8]:
        """``(1 + controls, n)``: everything, then without each random set."""
        n = len(run.train)
        draws = run.drawn(named(self.bank, "query controls"))
        out = subsets.fixed_size(run.train.ids, self._count(n), self.controls, draws)
        return np.concatenate([np.ones((1, n), np.uint8), 1 - out])

    def _losses(self, run: Run, weights: NDArray[np.uint8], tests: Rows, label: str) -> FloatArray:
        """``(seeds, rows, k)`` losses of the test rows (rows, k)."""
        return retrained(run, weights, tests, bank=self.bank, seeds=self.seeds, what="loss", label=label)

    def _protocol(self, run: Run) -> str:
        n = len(run.train)
        return sentences(
            f"each query without its own {self._count(n)} of {n} training instances, ties by id",
            f"{self.controls} random sets of as many; seeds={self.seeds}, paired; loss_norm=subset",
            stated(self.bank),
            f"95% CI: bootstrap over queries, seeds and random sets x{self.n_boot}, widened for {self.seeds} seeds and "
            f"{self.controls} sets",
        )


def _moves(own: FloatArray, random: FloatArray, full: FloatArray) -> str:
    higher = float((own.mean(axis=0) > random.mean(axis=(0, 1))).mean())
    return f"loss against nothing removed: {signed(float((own - full).mean()))}; higher than random for {higher:.0%}"


class _Samples:
    """Resamples of queries, seeds and random sets, the same for all three numbers."""

    def __init__(self, run: Run, metric: QueryLossDifference, asked: int) -> None:
        def shares(what: str, size: int) -> FloatArray:
            return counts_of(resample(run.rng(what), size, metric.n_boot)) / size

        self.queries = shares("queries", asked)
        self.seeds = widened(shares("training seeds", metric.seeds))
        self.sets = widened(shares("random sets", metric.controls))

    def measured(self, name: str, own: FloatArray, other: FloatArray, protocol: str, note: str) -> Measured:
        """Mean of ``own`` minus mean of ``other``, each (seeds, sets, queries), with a single set where it has none."""
        seeds, _, n = own.shape
        low, high = interval(self._means(own) - self._means(other)) if n > 1 else (np.nan, np.nan)
        single = "no interval from a single query" if n == 1 else ""
        return Measured(
            metric=name,
            value=float(own.mean() - other.mean()),
            ci_low=low,
            ci_high=high,
            n=n,
            protocol=protocol,
            note=sentences(note, single or ("one seed: its luck is not in the interval" if seeds == 1 else "")),
        )

    def _means(self, values: FloatArray) -> FloatArray:
        sets = self.sets if values.shape[1] > 1 else np.ones((len(self.queries), 1))
        return np.asarray(np.einsum("bs,bc,bq,scq->b", self.seeds, sets, self.queries, values, optimize=True))


def widened(shares: FloatArray) -> FloatArray:
    """Shares (n_boot, size) of resamples, further from equal ones by √(size / (size - 1)).

    Means weighted by them vary as those of ``size`` draws from the whole they stand for do, whose variance is that of
    the values at hand over size - 1; resamples vary by the same over size.
    """
    size = shares.shape[1]
    return np.asarray(1 / size + (shares - 1 / size) * math.sqrt(size / max(size - 1, 1)))
