"""Are the strongest proponents of a test instance of its class, and of its hidden subclass?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import left_out
from influx.metrics.per_test import summarise
from influx.metrics.ranking import top
from influx.metrics.rankings import tied_at
from influx.metrics.statistics import check_resamples, constant_columns
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("class", "subclass")
NAMES = tuple(f"same_{kind}_{of}" for kind in KINDS for of in ("first", "share"))


@dataclass(frozen=True, kw_only=True)
class ClassDetection:
    """Identical class and identical subclass test.

    Measures: per test instance, then averaged: ``same_class_first``, whether the strongest proponent has its class;
        ``same_class_share``, the share of the k strongest that have; ``same_subclass_first`` and
        ``same_subclass_share`` the same for the class that corruption=grouped_classes hides, which the model never
        saw. The note gives what a random ranking expects. Methods that look at labels or features alone do well here:
        it is a sanity check, not a proof.
    Not applicable: regression; for subclasses, no corruption=grouped_classes.
    Degenerate: test instances whose influence is constant or not finite, or ties at the first or k-th place, which
        leaves open which proponents these are; they are left out and counted.
    Intervals: 95% percentile bootstrap over test instances.
    Cost: n·m·log n.
    Source: Hanawa et al. 2021, arXiv:2006.04528, definitions 4 and 5, which take the first proponent.

    Attributes:
        k: proponents looked at.
        correct_only: ask only about test instances that are predicted as labelled.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    k: int = 10
    correct_only: bool = False
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.class_detection.n_boot", self.n_boot)
        if self.k < 1:
            raise ConfigError(f"metric.class_detection.k must be at least 1, got {self.k}; 10 is usual")

    def plan(self, prospect: Prospect) -> Work:
        """One order of every column."""
        n, m = len(prospect.train), len(prospect.test)
        return Work(
            compared=n * m * float(np.log2(max(n, 2))),
            numbers=3.0 * n * m + 4.0 * self.n_boot * m,
            bytes=24.0 * n * m,
            formula=f"{n} x {m} cells ordered",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Four rows: the names in ``NAMES``."""
        data = run.problem.data
        if data.task != "classification":
            return tidy(unavailable(NAMES, "not applicable", "this is regression: there are no classes"))
        computed = influence.computed
        if self.k > computed.sum():
            reason = f"metric.class_detection.k={self.k} is more than the {int(computed.sum())} training instances"
            return tidy(unavailable(NAMES, "not applicable", f"{reason} with scores; lower it"))
        asked = np.ones(len(run.test), bool)
        if self.correct_only:
            asked = run.outcomes(run.test).prediction == run.test.y
            if not asked.any():
                return tidy(unavailable(NAMES, "not applicable", "no test instance is predicted as labelled"))
        values = np.asarray(influence.values[computed][:, asked], dtype=np.float64)
        broken = np.asarray(~np.isfinite(values).all(axis=0))
        constant = constant_columns(influence.values[computed][:, asked])
        usable = ~(broken | constant)
        note, best = left_out(broken, constant), np.full((self.k, len(usable)), -1)
        best[:, usable] = top(values[:, usable], self.k)
        tied = np.array([usable & tied_at(values, place) for place in (1, self.k)])
        protocol = sentences(
            f"k={self.k}, test instances with a tie at the place asked about left out",
            f"{len(usable)} of {len(run.test)} test instances{': predicted as labelled' * self.correct_only}",
            f"{len(values)} of {len(computed)} training instances",
        )
        rows = list(self._rows("class", run.train.y[computed], run.test.y[asked], best, tied, run, protocol, note))
        if "subclass" not in data.flags or "subclass" not in data.test_flags:
            reason = "no subclass is hidden; set corruption=grouped_classes"
            return tidy([*rows, *unavailable(NAMES[2:], "not applicable", reason, protocol)])
        mine, its = np.asarray(data.flags["subclass"])[computed], np.asarray(data.test_flags["subclass"])[asked]
        return tidy([*rows, *self._rows("subclass", mine, its, best, tied, run, protocol, note)])

    def _rows(
        self,
        kind: str,
        train: NDArray[Any],
        test: NDArray[Any],
        best: NDArray[np.intp],
        tied: NDArray[np.bool_],
        run: Run,
        protocol: str,
        note: str,
    ) -> Iterator[Measured]:
        """Both numbers of one kind of class; ``best`` (k, q) is -1 where there is no order.

        ``tied`` (2, q): ties at the first and at the last place of ``best``.
        """
        same = np.where(best < 0, np.nan, train[best] == test)  # (k, q)
        chance = float((train[:, None] == test).mean())
        for of, found, open_ in (("first", same[0], tied[0]), ("share", same.mean(axis=0), tied[1])):
            lost = f"{int(open_.sum())} of {len(open_)} test instances left out for a tie" if open_.any() else ""
            yield summarise(
                f"same_{kind}_{of}",
                np.where(open_, np.nan, found),
                rng=run.rng("test instances"),
                n_boot=self.n_boot,
                lowest=0.0,
                protocol=protocol,
                note=sentences(f"random ranking: {chance:.4f}", note, lost),
            )
