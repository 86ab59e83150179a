"""Brittleness: how few training instances must go for a right prediction to turn wrong?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import unscored
from influx.metrics.banks import BankName, check_bank, distinct_seeds, named, paired, queries, retrained, stated
from influx.metrics.ranking import top
from influx.metrics.refit import Rows, check_seeds, weights_of
from influx.metrics.reliability import reliability
from influx.metrics.statistics import FloatArray, check_resamples, constant_columns, counts_of, interval, resample
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.metrics.unfairness import wilson
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("brittleness_flipped", "brittleness_excess", "brittleness_median", "brittleness_ceiling")
SINGLE = "no interval from a single test instance"
ALIKE = "the same for every test instance: the interval knows nothing"
NEVER = np.inf  # of a prediction that stands when the most instances are removed


@dataclass(frozen=True, kw_only=True)
class Brittleness:
    """Smallest number of strongest proponents whose removal turns a right prediction wrong.

    Measures: of test instances that every seed's model predicts rightly, the k of ``counts`` with the highest influence
        on each are removed, models are trained anew, and the prediction has flipped when more than half of the seeds
        get it wrong. The smallest such k is the test instance's; above the largest count it is censored.
        ``brittleness_flipped``: share of test instances that flip by the largest k. ``brittleness_excess``: that share
        minus the share under random removal, averaged over ``counts``. ``brittleness_median``: median smallest k. The
        table brittleness is the distribution function. ``brittleness_ceiling``: reliability of differences between
        test instances in the share of seeds that get a prediction wrong: the correlation of single seeds over all
        removals that were trained for (test instance, k), each less its seed's mean at this k, corrected by
        Spearman-Brown to the mean over all; a test instance that has flipped is tried no further.
    Intervals: 95%. Wilson's for the share; percentile bootstrap over test instances for the others, where the seeds are
        fixed, and for the ceiling, whose means at each k stay; missing for a single test instance.
    Degenerate: test instances whose scores are constant or not finite; they are counted in the note. The ceiling
        where a seed gets, at each k, all predictions right or all wrong.
    Not applicable: regression; training instances whose scores were not computed; no test instance that all seeds
        predict rightly; for the median, more than half are censored; the ceiling of one seed.
    Needs: retraining; classes.
    Cost: at most tests · counts · seeds trainings per estimator, and as many for random removal, as a test instance
        that has flipped needs no larger k; seeds trainings on everything.
    Source: Ilyas et al. 2022, arXiv:2202.00622, on a grid of k and without their search by datamodels; the
        random control and the majority over seeds are additions.

    Attributes:
        counts: numbers of training instances removed; ascending.
        tests: at most this many test instances, drawn from one half of them; null takes that half.
        seeds: trainings of every condition; odd numbers have a majority.
        bank: test, or tune for other test instances and models, which never judge.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    counts: list[int] = field(default_factory=lambda: [5, 10, 20, 40, 80])
    tests: int | None = 20
    seeds: int = 3
    bank: BankName = "test"
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        ascending = all(a < b for a, b in itertools.pairwise(self.counts))
        if not self.counts or not ascending or self.counts[0] < 1:
            raise ConfigError(
                f"metric.brittleness.counts must be ascending numbers of at least 1, got {list(self.counts)}; change it"
            )
        if self.tests is not None and self.tests < 1:
            raise ConfigError(f"metric.brittleness.tests must be at least 1 or null, got {self.tests}; raise it")
        check_seeds("metric.brittleness.seeds", self.seeds)
        check_bank("metric.brittleness.bank", self.bank)
        check_resamples("metric.brittleness.n_boot", self.n_boot)

    def plan(self, prospect: Prospect) -> Work:
        """Trainings on everything, and what it takes when nothing flips: a bank may have the former without these."""
        if prospect.problem.data.task != "classification":
            return Work()
        n, asked = len(prospect.train), len(queries(prospect, self.bank, self.tests))
        self._check_sizes(n)
        most = asked * len(self.counts) * distinct_seeds(prospect, self.seeds)
        return Work(
            trainings=(paired(np.ones((1, n), np.uint8), self.bank, self.seeds),),
            more_trainings=float(most),
            more_new=float(most),
            own_trainings=float(most),
            numbers=self.n_boot * len(self.counts) * asked * (2.0 + self.seeds**2),
            bytes=16.0 * self.seeds * asked * n + 8.0 * asked * self.counts[-1],
            formula=f"at most {self.seeds} seeds x {len(self.counts)} counts x {asked} test instances, twice (random)",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Four rows: the names in ``NAMES``; the distribution function."""
        if run.problem.data.task != "classification":
            note = "this is regression: there is no class to change"
            return tidy(unavailable(NAMES, "not applicable", note, self._protocol(run)))
        self._check_sizes(len(run.train))
        if missing := unscored(influence):
            return tidy(unavailable(NAMES, missing.status, missing.note, self._protocol(run)))
        everything, tests = np.ones((1, len(run.train)), np.uint8), np.arange(len(run.test))
        right = self._right(run, everything, tests[None], "retraining on everything")[:, 0]
        stable = np.flatnonzero(right.all(axis=0))
        asked = queries(run, self.bank, self.tests, stable)
        if not len(asked):
            note = "no test instance is predicted rightly under every seed"
            return tidy(unavailable(NAMES, "not applicable", note, self._protocol(run, 0)))
        values = np.asarray(influence.values[:, asked])
        unusable = ~np.isfinite(values).all(axis=0) | constant_columns(values)
        chosen = asked[~unusable]
        note = f"{int(unusable.sum())} of {len(asked)} test instances have constant or not finite scores"
        note, protocol = note if unusable.any() else "", self._protocol(run, len(chosen))
        if not len(chosen):
            return tidy(unavailable(NAMES, "degenerate", note, protocol))
        ranked = top(values[:, ~unusable], self.counts[-1], run.train.ids).T
        own, wrong = self._smallest(run, chosen, ranked)
        random, _ = self._smallest(run, chosen, self._random(run, chosen))
        found = _Found(self.counts, own, random, counts_of(resample(run.rng("test instances"), len(own), self.n_boot)))
        rows = [*found.rows(protocol, note), self._ceiling(wrong, found.weights, protocol)]
        return tidy(rows, tables={"brittleness": found.table()})

    def _check_sizes(self, n: int) -> None:
        if self.counts[-1] >= n:
            raise ConfigError(
                f"metric.brittleness.counts={list(self.counts)} leaves none of {n} training instances; lower it"
            )

    def _random(self, run: Run, tests: Rows) -> Rows:
        """``(tests, largest count)`` the start of a random order for each test row, by its id alone."""
        draws = [run.drawn(named(self.bank, f"brittleness/{test}")) for test in run.test.ids[tests].tolist()]
        return np.stack([subsets.permutations(run.train.ids, 1, rng)[0, : self.counts[-1]] for rng in draws])

    def _ceiling(self, wrong: FloatArray, weights: FloatArray, protocol: str) -> Measured:
        """Do seeds get the same test instances wrong? ``wrong`` (seeds, tests, counts), ``weights`` (n_boot, tests).

        Wrong predictions rise with k under every seed, which says nothing of test instances: each k's mean comes off.
        """
        tried = np.isfinite(wrong[0])
        at, count = np.nonzero(tried)
        means = wrong.sum(axis=1, where=tried) / np.maximum(tried.sum(axis=0), 1)  # (seeds, counts)
        found = reliability(
            "brittleness_ceiling",
            wrong[:, at, count] - means[:, count],
            weights,
            setting="metric.brittleness.seeds",
            what="wrong predictions, each less its seed's mean at the same k",
            units="test instances",
            protocol=protocol,
            groups=at,
        )
        # how many there are depends on the estimator, and rows of one protocol are compared
        return replace(found, note=sentences(found.note, f"{len(at)} removals were trained for"))

    def _smallest(self, run: Run, tests: Rows, orders: Rows) -> tuple[FloatArray, FloatArray]:
        """Smallest k whose removal, in the test row's own order (tests, largest count), flips it.

        Returns:
            ``(tests,)`` k, and ``(seeds, tests, counts)`` which seeds were wrong, NaN where none was asked.
        """
        found, n = np.full(len(tests), NEVER), len(run.train)
        wrong = np.full((self.seeds, len(tests), len(self.counts)), np.nan)
        for place, k in enumerate(self.counts):
            open_ = np.flatnonzero(np.isinf(found))
            if not len(open_):
                break
            weights = weights_of(n, orders[open_, :k], 0)
            right = self._right(run, weights, tests[open_, None], f"retraining without {k} instances")[:, :, 0]
            wrong[:, open_, place] = ~right
            found[open_[right.mean(axis=0) < 0.5]] = k
        return found, wrong

    def _right(self, run: Run, weights: NDArray[np.uint8], tests: Rows, label: str) -> NDArray[np.bool_]:
        """``(seeds, rows, k)`` whether the test rows (rows, k) are predicted rightly."""
        found = retrained(run, weights, tests, bank=self.bank, seeds=self.seeds, what="prediction", label=label)
        return np.asarray(found == run.test.y[tests])

    def _protocol(self, run: Run, asked: int | None = None) -> str:
        tests = "test instances" if asked is None else f"{asked} test instances"
        return sentences(
            f"k in {', '.join(map(str, self.counts))}; {tests} that all seeds predict rightly",
            f"flipped: wrong under more than half of {self.seeds} seeds; ties by id; loss_norm=subset",
            stated(self.bank),
        )


@dataclass(frozen=True)
class _Found:
    """Smallest k by influence and by random removal, (tests,) with ``NEVER`` where censored, and resamples."""

    counts: Sequence[int]
    own: FloatArray
    random: FloatArray
    weights: FloatArray  # (n_boot, tests) how often each test instance is in a resample

    def rows(self, protocol: str, note: str) -> Iterator[Measured]:
        """One row per number."""
        n, most = len(self.own), self.counts[-1]
        single = SINGLE if n == 1 else ""
        flipped, chance = float(np.isfinite(self.own).mean()), float(np.isfinite(self.random).mean())
        low, high = wilson(flipped, n)
        censored = f"{int(np.isinf(self.own).sum())} of {n} censored: not flipped by k={most}"
        yield Measured(
            metric="brittleness_flipped",
            value=flipped,
            ci_low=low,
            ci_high=high,
            n=n,
            protocol=sentences(protocol, "95% CI: Wilson"),
            note=sentences(censored, f"random removal flips {chance:.1%}", note),
        )
        boot = sentences(protocol, f"95% CI: bootstrap over test instances x{len(self.weights)}")
        difference = np.mean([(self.own <= k) * 1.0 - (self.random <= k) for k in self.counts], axis=0)
        low, high = interval(self.weights @ difference / n) if n > 1 else (np.nan, np.nan)
        yield Measured(
            metric="brittleness_excess",
            value=float(difference.mean()),
            ci_low=low,
            ci_high=high,
            n=n,
            protocol=boot,
            note=sentences(note, single or (ALIKE if np.ptp(difference) == 0 else "")),
        )
        yield self._median(boot, sentences(censored, note))

    def _median(self, protocol: str, note: str) -> Measured:
        """The lower median, so that it is one of the counts."""
        order = np.argsort(self.own, kind="stable")
        reached = np.cumsum(self.weights[:, order], axis=1) * 2 >= len(self.own)
        samples = self.own[order][reached.argmax(axis=1)]
        value = float(np.sort(self.own)[(len(self.own) - 1) // 2])
        if np.isinf(value):
            reason = f"the median is above k={self.counts[-1]}, the largest that was removed"
            note = sentences(reason, note)
            return Measured(metric="brittleness_median", status="not applicable", protocol=protocol, note=note)
        if len(self.own) == 1:
            note = sentences(note, SINGLE)
            return Measured(metric="brittleness_median", value=value, n=1, protocol=protocol, note=note)
        low, high = np.quantile(samples, [0.025, 0.975], method="inverted_cdf")
        above = f"the interval has no upper end: it is above k={self.counts[-1]}" if np.isinf(high) else ""
        return Measured(
            metric="brittleness_median",
            value=value,
            ci_low=float(low),
            ci_high=float(high) if np.isfinite(high) else np.nan,
            n=len(self.own),
            protocol=protocol,
            note=sentences(above, note),
        )

    def table(self) -> pd.DataFrame:
        """Share of test instances that have flipped by each k."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for series, smallest in (("by influence", self.own), ("random", self.random)):
            for k in (0, *self.counts):
                share = float((smallest <= k).mean())
                low, high = wilson(share, len(smallest)) if k else (0.0, 0.0)
                rows.append({"series": series, "removed": k, "flipped": share, "ci_low": low, "ci_high": high})
        return pd.DataFrame(rows)
