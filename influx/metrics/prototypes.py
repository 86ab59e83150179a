"""Prototypes: the training instances that stand for a class, and how far one gets with them alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import scores
from influx.metrics.aligned import Unavailable
from influx.metrics.refit import Judge, Resamples, Rows, certain
from influx.metrics.statistics import FloatArray, check_resamples
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Split
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

SETTING = "metric.prototypes"
CHUNK = 256  # test instances whose distances are held at once


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """Example-based and normative explanation of classes, and the accuracy of a classifier that knows only these.

    Measures: in each class, training instances are ranked by influence summed over the class's instances of the ranking
        half of the test set. The first are its prototypes; its criticisms are the most memorised, by self-influence,
        or without one those of the lowest sum. The table prototypes names them: class, role, rank, train_id, influence
        (the sum), self_influence. ``prototypes_accuracy_<k>`` is the accuracy, on the judging half, of the nearest
        neighbour among k prototypes per class (Euclidean, on the inputs); ``prototypes_gain_<k>`` what it is above
        that of k random instances per class, over ``draws`` draws; ``prototypes_over_nearest_<k>`` above that of the k
        instances nearest to the mean of their class, the specialised baseline. Notes have these numbers and that of
        all training instances. The table prototype_accuracy is the curve.
    Intervals: 95% percentile bootstrap over random draws and judging test instances together; Wilson's where an
        accuracy is 0 or 1.
    Not applicable: a regression; inputs that are not numbers of one scale (tokens); a class without test instances in
        the ranking half.
    Degenerate: sums that are not finite or all the same.
    Cost: n·m/2 for the sums; (draws + 2)·k·classes·m/2 distances per k, n·m/2 for all.
    Source: survey section 6 (canonical instances of a class); Kim et al. 2016 for prototypes with criticisms and the
        nearest-prototype classifier that measures them.

    Attributes:
        counts: k, prototypes per class; ascending.
        listed: prototypes and criticisms per class in the table.
        draws: random draws, the same for all estimators.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    counts: list[int] = field(default_factory=lambda: [1, 3, 10])
    listed: int = 10
    draws: int = 20
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples(f"{SETTING}.n_boot", self.n_boot)
        if not self.counts or self.counts != sorted(set(self.counts)) or self.counts[0] < 1:
            raise ConfigError(f"{SETTING}.counts must be ascending numbers from 1, got {self.counts}; change it")
        for name, value in (("listed", self.listed), ("draws", self.draws)):
            if value < 1:
                raise ConfigError(f"{SETTING}.{name} must be at least 1, got {value}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """Sums and distances."""
        data, n, m = prospect.problem.data, len(prospect.train), len(prospect.test)
        if data.task != "classification" or data.kind == "text":
            return Work()
        inputs = float(np.prod(data.train.x.shape[1:]))
        known = n + (self.draws + 2) * sum(self.counts) * data.n_outputs
        return Work(
            flops=2 * 2.0 * known * m / 2 * inputs,
            numbers=2.0 * n * m + 3.0 * known * m + 3.0 * self.n_boot * self.draws * m * len(self.counts),
            bytes=8.0 * (n * inputs + 3 * CHUNK * n + self.n_boot * m),
            formula=f"{known} x {m // 2} distances",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows per number of prototypes; the prototypes and a curve."""
        data = run.problem.data
        refusal = _unfit(data.task, data.kind)
        if refusal:
            return tidy(unavailable(self._names(), "not applicable", refusal))
        judge = Judge.of(run, self.draws)
        protocol = self._protocol(judge)
        sums = _sums(influence, run, judge)
        if isinstance(sums, Unavailable):
            return tidy(unavailable(self._names(), sums.status, sums.note, protocol))
        own = scores.by_self(influence)
        memorised = None if isinstance(own, Unavailable) else own
        seen = _Neighbours(run, judge)
        ranked = {"prototypes": sums, "nearest to the mean": nearest(run.train)}
        resamples = Resamples.drawn(run, judge, self.n_boot)
        right: dict[tuple[str, int], FloatArray] = {}
        for k in self.counts:
            right |= {(name, k): seen.right(firsts(score, run.train.y, k))[None] for name, score in ranked.items()}
            draws = [seen.right(firsts(-place, run.train.y, k)) for place in self._random(run)]
            right["random", k] = np.stack(draws)
        everything = float(seen.right(np.arange(len(run.train))).mean())
        rows = list(self._rows(right, everything, resamples, protocol))
        tables = {
            "prototypes": self._listed(run, sums, memorised),
            "prototype_accuracy": self._curve(right, resamples),
        }
        return tidy(rows, tables=tables)

    def _names(self) -> list[str]:
        return [f"prototypes_{kind}_{k}" for k in self.counts for kind in ("accuracy", "gain", "over_nearest")]

    def _protocol(self, judge: Judge) -> str:
        return sentences(
            f"nearest neighbour on the inputs; accuracy on {len(judge.judging)} test instances; the other "
            f"{len(judge.ranking)} rank; ties by row index",
            f"{self.draws} random draws per class; 95% CI: bootstrap over draws and test instances x{self.n_boot}, "
            f"widened for {self.draws} draws",
        )

    def _random(self, run: Run) -> Rows:
        """``(draws, n)`` place of every instance in a random order."""
        orders = subsets.permutations(run.train.ids, self.draws, run.drawn("prototypes"))
        return np.argsort(orders, axis=1)

    def _rows(
        self, right: Mapping[tuple[str, int], FloatArray], everything: float, resamples: Resamples, protocol: str
    ) -> Iterator[Measured]:
        names = iter(self._names())
        for k in self.counts:
            mine, centre, random = (right[name, k] for name in ("prototypes", "nearest to the mean", "random"))
            note = (
                f"random: {random.mean():.4f}, nearest to the class mean: {centre.mean():.4f}, "
                f"all training instances: {everything:.4f}"
            )
            accuracy, *above = (
                resamples.measured(next(names), np.broadcast_to(values, random.shape), protocol, note)
                for values in (mine, mine - random, mine - centre)
            )
            yield from (certain(accuracy), *above)

    def _curve(self, right: Mapping[tuple[str, int], FloatArray], resamples: Resamples) -> pd.DataFrame:
        import pandas as pd

        shape = right["random", self.counts[0]].shape
        points = [
            resamples.point(name, {"per_class": k}, "accuracy", np.broadcast_to(values, shape))
            for (name, k), values in right.items()
        ]
        return pd.DataFrame(points).sort_values("series", kind="stable").reset_index(drop=True)

    def _listed(self, run: Run, sums: FloatArray, memorised: FloatArray | None) -> pd.DataFrame:
        """Prototypes and criticisms of every class, by name."""
        import pandas as pd

        y, classes = run.train.y, run.problem.data.classes
        parts = []
        for role, score in (("prototype", sums), ("criticism", -sums if memorised is None else memorised)):
            for label in np.unique(y).tolist():
                mine = np.flatnonzero(y == label)
                rows = mine[scores.descending(score[mine])][: self.listed]
                columns: dict[str, Any] = {
                    "class": classes[label],
                    "role": role,
                    "rank": np.arange(1, len(rows) + 1),
                    "train_id": run.train.ids[rows],
                    "influence": sums[rows],
                    "self_influence": np.nan if memorised is None else memorised[rows],
                }
                parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)


def _unfit(task: str, kind: str) -> str:
    if task != "classification":
        return "this is regression: there are no classes to explain"
    return "distances between tokens mean nothing" if kind == "text" else ""


def _sums(influence: Influence, run: Run, judge: Judge) -> FloatArray | Unavailable:
    """``(n,)`` influence of each training instance summed over the ranking half's instances of its own class."""
    unseen = np.setdiff1d(run.train.y, run.test.y[judge.ranking]).tolist()
    if unseen:
        names = ", ".join(run.problem.data.classes[label] for label in unseen)
        note = f"no ranking test instance of class {names}, so nothing ranks its training instances"
        return Unavailable(status="not applicable", note=f"{note}; raise dataset.n_test")
    total = np.zeros(len(run.train), dtype=influence.values.dtype)
    for label in np.unique(run.train.y).tolist():
        columns = judge.ranking[run.test.y[judge.ranking] == label]
        mine = np.flatnonzero(run.train.y == label)
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, and refused below
            total[mine] = np.sum(influence.values[np.ix_(mine, columns)], axis=1, dtype=np.float64)
    return scores.usable(total)


def firsts(score: NDArray[Any], y: NDArray[Any], k: int) -> Rows:
    """The k rows of highest ``score`` (n,) of every class, fewer where a class has fewer; ascending."""
    order = scores.descending(score)
    return np.sort(np.concatenate([order[y[order] == label][:k] for label in np.unique(y)]))


def nearest(train: Split) -> FloatArray:
    """``(n,)`` minus the squared distance of each instance to the mean of its class."""
    flat = np.asarray(train.x, dtype=np.float64).reshape(len(train), -1)
    found = np.empty(len(train))
    for label in np.unique(train.y):
        rows = train.y == label
        found[rows] = -((flat[rows] - flat[rows].mean(axis=0)) ** 2).sum(axis=1)
    return found


class _Neighbours:
    """The nearest-neighbour classifier on the inputs."""

    def __init__(self, run: Run, judge: Judge) -> None:
        self.x = np.asarray(run.train.x, dtype=np.float64).reshape(len(run.train), -1)
        self.y, self.wanted = run.train.y, judge.y
        self.asked = np.asarray(run.test.x[judge.judging], dtype=np.float64).reshape(len(judge.judging), -1)

    def right(self, rows: Rows) -> FloatArray:
        """``(judging half,)`` 1 where the nearest of some training rows has the right class, else 0."""
        known = self.x[rows]
        squares = (known * known).sum(axis=1)
        best = np.concatenate(
            [
                (squares - 2 * self.asked[start : start + CHUNK] @ known.T).argmin(axis=1)
                for start in range(0, len(self.asked), CHUNK)
            ]
        )
        return np.asarray(self.y[rows[best]] == self.wanted, dtype=np.float64)
