"""Subset removal: what happens to the model without the most helpful or the most harmful training instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.influence import Influence
from influx.metrics import scores
from influx.metrics.aligned import Unavailable, unscored
from influx.metrics.banks import BankName, Halves, check_bank, distinct_seeds, named, removed, stated
from influx.metrics.refit import (
    Refitted,
    Resamples,
    Rows,
    area,
    check_chosen,
    check_seeds,
    check_shares,
    percent,
    signed,
    weights_of,
)
from influx.metrics.reliability import reliability
from influx.metrics.statistics import FloatArray, check_resamples
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

End = Literal["top", "bottom"]
SHARES = "metric.removal.shares"
REMOVED: Mapping[str, str] = {
    "top": "removed: highest influence summed over the ranking test instances",
    "bottom": "removed: lowest influence summed over the ranking test instances",
}
Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class SubsetRemoval:
    """Loss and accuracy of models trained without the instances that are said to help, or to harm, most.

    Measures: training instances are ranked by influence summed over one half of the test instances. The first share of
        ``shares`` from the top (or the bottom) is removed, models are trained anew and judged on the other half.
        ``removal_<end>_<percent>`` is how much worse the mean loss is than without as many random instances for the
        top, how much better for the bottom; ``removal_area_<end>`` the mean of that over the curve up to the last
        share (the area between the curve and that of random removal, over the last share); ``removal_accuracy_<end>``
        the same area in accuracy. All are 0 by chance and positive for a ranking that is right. The tables removal
        and removal_accuracy are the curves. ``removal_ceiling_<end>`` is the reliability of the area in loss: the
        correlation of single seeds over judging test instances, corrected by Spearman-Brown to the mean over all.
    Intervals: 95% percentile bootstrap over seeds and judging test instances together, widened for few seeds.
        Every seed has a random order of its own, the same for all estimators; sizes are nested.
        The ranking is taken as it is: what another, as random, would have given is not in them. Ceilings take the
        seeds as given.
    Degenerate: scores that are all the same or not finite; the ceiling of effects without spread.
    Not applicable: training instances whose scores were not computed; accuracy in a regression; the ceiling of
        one seed.
    Needs: retraining.
    Cost: per estimator ends · shares · seeds trainings; shares · seeds for random removal, seeds for none.
    Source: Ghorbani & Zou 2019 (value curves); Jiang et al. 2023, arXiv:2306.10577. One ranking, not taken
        anew after each removal.

    Attributes:
        shares: of the training instances, removed; ascending.
        ends: top and bottom, or one of them.
        seeds: trainings of every condition.
        bank: test, or tune for models that never judge.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    shares: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.4])
    ends: list[End] = field(default_factory=lambda: ["top", "bottom"])
    seeds: int = 5
    bank: BankName = "test"
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_shares(SHARES, self.shares, most=0.9)
        check_chosen("metric.removal.ends", self.ends, get_args(End))
        check_seeds("metric.removal.seeds", self.seeds)
        check_bank("metric.removal.bank", self.bank)
        check_resamples("metric.removal.n_boot", self.n_boot)

    def plan(self, prospect: Prospect) -> Work:
        """Trainings without random instances and on everything, and as many as one estimator's ranking takes."""
        judge, n = Halves.in_bank(prospect, self.seeds, self.bank), len(prospect.train)
        sets = [np.ones(n, np.uint8), *self._sets(n, {"random": self._random(prospect)}).values()]
        each = len(self.shares) * self.seeds
        own = len(self.ends) * len(self.shares) * distinct_seeds(prospect, self.seeds)
        return Work(
            trainings=(judge.design(sets, judge.numbers),),
            own_trainings=float(own),
            numbers=len(self.ends) * self.n_boot * (4.0 * each + self.seeds**2) * len(judge.y),
            bytes=48.0 * each * (n + len(prospect.test)) + 8.0 * self.n_boot * len(judge.y),
            formula=f"{self.seeds} seeds x {len(self.shares)} shares x ({len(self.ends)} ends per estimator + random)",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Per end, one row per share, two areas and the ceiling of the first; curves."""
        judge, n = Halves.in_bank(run, self.seeds, self.bank), len(run.train)
        score = unscored(influence) or scores.by_sum(influence, judge.ranking)
        orders: dict[str, Rows] = {"random": self._random(run)}
        if not isinstance(score, Unavailable):
            ranked = {"top": scores.descending(score), "bottom": scores.descending(-score)}
            orders |= {end: ranked[end] for end in self.ends}
        sets: dict[Key, NDArray[Any]] = {("full", 0): np.ones(n, np.uint8)} | self._sets(n, orders)
        made = judge.refit(run.retrain, sets, "retraining without subsets", judge.numbers)
        curves = {kind: [made["full", 0], *(made[kind, place] for place in range(len(self.shares)))] for kind in orders}
        resamples = Resamples.drawn(run, judge, self.n_boot)
        rows: list[Measured] = []
        for end in self.ends:
            protocol = sentences(REMOVED[end], judge.protocol(self.n_boot), stated(self.bank))
            if isinstance(score, Unavailable):
                rows += unavailable(self._names(end), score.status, score.note, protocol)
            else:
                rows += self._rows(end, curves, resamples, protocol, judge.classes)
        return tidy(rows, tables=self._tables(curves, resamples, judge.classes))

    def _names(self, end: str) -> list[str]:
        shares = [f"removal_{end}_{percent(share)}" for share in self.shares]
        return [*shares, f"removal_area_{end}", f"removal_ceiling_{end}", f"removal_accuracy_{end}"]

    def _random(self, run: Run | Prospect) -> Rows:
        """``(seeds, n)`` a random order for every seed, the same as other metrics of random removal draw."""
        return subsets.permutations(run.train.ids, self.seeds, run.drawn(named(self.bank, "inspected")))

    def _sets(self, n: int, orders: Mapping[str, Rows]) -> dict[Key, NDArray[np.uint8]]:
        """Weights without the first of each order, (n,) or (seeds, n), for every share."""
        counts = list(enumerate(removed(self.shares, n, SHARES)))
        return {
            (kind, place): weights_of(n, order[..., :count], 0)
            for kind, order in orders.items()
            for place, count in counts
        }

    def _rows(
        self, end: str, curves: Mapping[str, Sequence[Refitted]], resamples: Resamples, protocol: str, classes: bool
    ) -> Iterator[Measured]:
        sign, (everything, *random) = (1.0 if end == "top" else -1.0), curves["random"]
        *names, of_area, ceiling, of_accuracy = self._names(end)
        after = curves[end][1:]
        worse = [sign * (own.loss - chance.loss) for own, chance in zip(after, random, strict=True)]
        unit = f"loss {'above' if end == 'top' else 'below'} random removal"
        for name, values, own, chance in zip(names, worse, after, random, strict=True):
            moved = [signed(float((made.loss - everything.loss).mean())) for made in (own, chance)]
            note = f"loss against nothing removed: {moved[0]}, by random removal {moved[1]}"
            yield resamples.measured(name, values, sentences(unit, protocol), note)
        over = f"mean over the curve from 0 to {percent(self.shares[-1])}%"
        total = area(self.shares, worse)
        yield resamples.measured(of_area, total, sentences(f"{unit}, {over}", protocol))
        yield reliability(
            ceiling,
            total,
            resamples.of_tests,
            setting="metric.removal.seeds",
            what=f"{unit}, {over}",
            units="judging test instances",
            protocol=sentences(REMOVED[end], stated(self.bank)),
        )
        if not classes:
            yield from unavailable(
                [of_accuracy], "not applicable", "this is regression: there is no accuracy", protocol
            )
            return
        fallen: list[FloatArray] = [
            sign * (chance.quality - own.quality) for own, chance in zip(after, random, strict=True)
        ]
        unit = f"accuracy {'below' if end == 'top' else 'above'} random removal"
        yield resamples.measured(of_accuracy, area(self.shares, fallen), sentences(f"{unit}, {over}", protocol))

    def _tables(
        self, curves: Mapping[str, Sequence[Refitted]], resamples: Resamples, classes: bool
    ) -> dict[str, pd.DataFrame]:
        """Loss and accuracy against the share removed."""
        import pandas as pd

        points: dict[str, list[dict[str, Any]]] = {"removal": []}
        if classes:
            points["removal_accuracy"] = []
        for kind, curve in curves.items():
            series = "random" if kind == "random" else f"{kind} by influence"
            for share, at in zip([0.0, *self.shares], curve, strict=True):
                x = {"removed": share}
                points["removal"].append(resamples.point(series, x, "loss", at.loss))
                if classes:
                    points["removal_accuracy"].append(resamples.point(series, x, "accuracy", at.quality))
        return {name: pd.DataFrame(rows) for name, rows in points.items()}
