"""Retraining on changed training sets, judged on the half of the test set that had no say in the change.

Every condition is trained under the same seeds, so conditions are compared seed by seed and test instance by test
instance. Chance conditions have a draw of their own for every seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.metrics.statistics import FloatArray, counts_of, interval, resample
from influx.metrics.tidy import Measured, sentences
from influx.metrics.unfairness import wilson
from influx.planning import Prospect
from influx.problem import Data, Design
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

Rows = NDArray[np.int64]
Key = TypeVar("Key", bound=Hashable)
LEAST_TESTS = 4  # two that rank and two that judge
ALIKE = "the same for every seed and test instance: the interval knows nothing"


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """One condition on the judging half: ``quality`` and ``loss``, each (seeds, judging half).

    Quality is 1 for a right class and 0 for a wrong one, so that its mean is the accuracy; minus the loss where
    there are no classes.
    """

    quality: FloatArray
    loss: FloatArray


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The halves of the test set, and the seeds under which every condition is trained.

    Attributes:
        ranking: test rows whose influences may be used to rank training instances, ascending.
        judging: the other test rows, ascending.
        y: their labels or targets.
        classes: whether there are classes.
        seeds: trainings of every condition, with initialisations and batch orders 0, 1, ….
    """

    ranking: Rows
    judging: Rows
    y: NDArray[Any]
    classes: bool
    seeds: int

    @classmethod
    def of(cls, run: Run | Prospect, seeds: int) -> Judge:
        """The same halves whoever asks.

        Raises:
            ConfigError: fewer than ``LEAST_TESTS`` test instances.
        """
        m = len(run.test)
        if m < LEAST_TESTS:
            raise ConfigError(
                f"one half of the test instances ranks and the other judges, which takes {LEAST_TESTS}, got {m}; "
                "raise dataset.n_test"
            )
        ranking = subsets.some(run.test.ids, np.arange(m), m // 2, run.drawn("ranking half"))
        judging = np.setdiff1d(np.arange(m), ranking)
        classes = run.problem.data.task == "classification"
        return cls(ranking=ranking, judging=judging, y=run.test.y[judging], classes=classes, seeds=seeds)

    @property
    def measure(self) -> str:
        """What quality is, as the name of a column."""
        return "accuracy" if self.classes else "minus_loss"

    def protocol(self, n_boot: int) -> str:
        """Who ranks, who judges, how training goes and what the interval is over."""
        seeds = f"{self.seeds} seeds, each with its own random draw"
        return sentences(
            f"{self.measure.replace('_', ' ')} on {len(self.judging)} test instances; the other {len(self.ranking)} "
            "rank",
            f"{seeds}; loss_norm=subset, steps as on everything; ties by row index",
            f"95% CI: bootstrap over seeds and test instances x{n_boot}, widened for {self.seeds} seeds",
        )

    def design(self, sets: Iterable[NDArray[Any]], seeds: Sequence[int] | None = None) -> Design:
        """Trainings with instance weights ``sets``, each (n,) or (seeds, n): set after set, seed after seed."""
        numbers = np.arange(self.seeds) if seeds is None else np.array(seeds)
        weights = [np.broadcast_to(w, (len(numbers), w.shape[-1])) for w in sets]
        turn = np.tile(numbers.astype(np.int64), len(weights))
        return Design(weights=np.concatenate(weights), init=turn, order=turn.copy(), loss_norm="subset")

    def refit(
        self, bank: Bank, sets: Mapping[Key, NDArray[Any]], label: str, seeds: Sequence[int] | None = None
    ) -> dict[Key, Refitted]:
        """Train on every weighted set of ``design`` and look at the judging half."""
        if not sets:
            return {}
        design = self.design(sets.values(), seeds)
        shape = (len(sets), len(design) // len(sets), len(self.judging))
        quality, loss = np.empty((len(design), shape[2])), np.empty((len(design), shape[2]))
        for rows, _, test in bank.parts(design, label):
            loss[rows] = test.loss[:, self.judging]
            quality[rows] = test.prediction[:, self.judging] == self.y if self.classes else -loss[rows]
        parts = zip(sets, quality.reshape(shape), loss.reshape(shape), strict=True)
        return {key: Refitted(quality=right, loss=lost) for key, right, lost in parts}

    def altered(
        self, run: Run, changed: Iterable[tuple[Key, Data | Iterable[Data]]], label: str
    ) -> dict[Key, Refitted]:
        """Train on other data, one after the other; several have the data of each seed in turn."""
        found: dict[Key, Refitted] = {}
        for key, data in changed:
            if isinstance(data, Data):
                found[key] = self._on(run, data, label, None)
                continue
            parts = [self._on(run, one, label, [seed]) for seed, one in enumerate(data)]
            found[key] = Refitted(
                quality=np.concatenate([part.quality for part in parts]),
                loss=np.concatenate([part.loss for part in parts]),
            )
        return found

    def _on(self, run: Run, data: Data, label: str, seeds: Sequence[int] | None) -> Refitted:
        return self.refit(run.altered(data), {0: np.ones(len(data.train), np.uint8)}, label, seeds)[0]


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of seeds and test instances together.

    Means over s resampled seeds spread less than those over other seeds by sqrt((s - 1) / s), so that deviations from
    the mean over seeds are widened by the inverse.
    """

    of_seeds: FloatArray  # (n_boot, seeds) shares
    of_tests: FloatArray  # (n_boot, judging half) shares

    @classmethod
    def drawn(cls, run: Run, judge: Judge, n_boot: int) -> Resamples:
        """Resamples of a metric's own streams."""
        sizes = ("training seeds", judge.seeds), ("test instances", len(judge.judging))
        return cls(*(counts_of(resample(run.rng(what), size, n_boot)) / size for what, size in sizes))

    def interval(self, values: FloatArray) -> tuple[float, float]:
        """95% interval of the mean of ``values`` (seeds, judging half)."""
        s, centre = len(values), values.mean(axis=0)
        wide = centre + (values - centre) * math.sqrt(s / max(s - 1, 1))
        return interval(np.asarray(((self.of_seeds @ wide) * self.of_tests).sum(axis=1)))

    def measured(self, metric: str, values: FloatArray, protocol: str, note: str = "") -> Measured:
        """The mean of ``values`` (seeds, judging half) with its interval."""
        low, high = self.interval(values)
        notes = [
            "one seed: its luck is not in the interval" if len(values) == 1 else "",
            ALIKE if np.ptp(values) == 0 else "",
        ]
        return Measured(
            metric=metric,
            value=float(values.mean()),
            ci_low=low,
            ci_high=high,
            n=values.shape[1],
            protocol=protocol,
            note=sentences(note, *notes),
        )

    def curves(
        self, name: str, x: str, judge: Judge, series: Mapping[str, Iterable[tuple[float, Refitted]]]
    ) -> dict[str, pd.DataFrame]:
        """Quality, and loss under ``<name>_loss``, of every series of points against ``x``."""
        import pandas as pd

        points: dict[str, list[dict[str, Any]]] = {name: [], f"{name}_loss": []}
        for title, path in series.items():
            for at, found in path:
                points[name].append(self.point(title, {x: at}, judge.measure, found.quality))
                points[f"{name}_loss"].append(self.point(title, {x: at}, "loss", found.loss))
        return {title: pd.DataFrame(rows) for title, rows in points.items()}

    def point(self, series: str, x: Mapping[str, float], y: str, values: FloatArray) -> dict[str, Any]:
        """One row of a curve."""
        low, high = self.interval(values)
        return {"series": series, **x, y: float(values.mean()), "ci_low": low, "ci_high": high}


def area(shares: Sequence[float], differences: Sequence[FloatArray]) -> FloatArray:
    """``(seeds, judging half)`` mean of a curve of differences from share 0, where it is 0, to the last share.

    Straight lines between the shares, ascending.
    """
    xs, total, before = [0.0, *shares], np.zeros_like(differences[0]), np.zeros_like(differences[0])
    for start, end, values in zip(xs, shares, differences, strict=False):
        total = total + (end - start) * (before + values) / 2
        before = values
    return np.asarray(total / shares[-1])


def weights_of(n: int, rows: NDArray[Any], inside: int) -> NDArray[np.uint8]:
    """``(n,)`` or (seeds, n): ``inside`` on ``rows`` (k,) or (seeds, k), 1 - ``inside`` elsewhere."""
    weights = np.full((*rows.shape[:-1], n), 1 - inside, np.uint8)
    np.put_along_axis(weights, rows, inside, axis=-1)
    return weights


def counts_for(shares: Sequence[float], n: int, setting: str) -> list[int]:
    """How many of ``n`` instances each share is, ascending.

    Raises:
        ConfigError: a share selects none of them, or two select as many.
    """
    counts = [round(share * n) for share in shares]
    if min(counts) < 1 or len(set(counts)) < len(counts):
        raise ConfigError(f"{setting}={list(shares)} selects {counts} of {n} training instances; change it")
    return counts


def check_shares(setting: str, shares: Sequence[float], most: float = 1.0) -> None:
    """Refuse shares that are not ascending numbers above 0, up to ``most``.

    Raises:
        ConfigError: naming the setting.
    """
    ascending = all(a < b for a, b in itertools.pairwise(shares))
    if not shares or not ascending or not all(0 < share <= most for share in shares):
        raise ConfigError(
            f"{setting} must be ascending shares above 0 and at most {most:g}, got {list(shares)}; change it"
        )


def check_chosen(setting: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    """Refuse an empty list, one with repetitions, or names that do not exist.

    Raises:
        ConfigError: naming the setting.
    """
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise ConfigError(f"{setting} must be some of {', '.join(known)}, each once, got {list(chosen)}; change it")


def check_seeds(setting: str, seeds: int) -> None:
    """Refuse less than one seed.

    Raises:
        ConfigError: naming the setting.
    """
    if seeds < 1:
        raise ConfigError(f"{setting} must be at least 1, got {seeds}; raise it")


def certain(row: Measured) -> Measured:
    """A share of 0 or 1 in every resample still has an interval: Wilson's over test instances."""
    if row.value not in (0.0, 1.0):
        return row
    low, high = wilson(row.value, row.n)
    note, protocol = row.note.replace(ALIKE, "").removesuffix("; "), sentences(row.protocol, "Wilson where all agree")
    return replace(row, ci_low=low, ci_high=high, protocol=protocol, note=note)


def percent(share: float) -> str:
    """A share as it stands in the name of a metric."""
    return f"{100 * share:g}"


def by_draw(quality: FloatArray) -> str:
    """Mean of a chance condition (seeds, judging half), and how far its draws lie apart: one set's luck is as large."""
    each = quality.mean(axis=1)
    return f"{each.mean():.4f} ({each.min():.4f} to {each.max():.4f} by draw)"


def signed(value: float) -> str:
    """A difference for a note."""
    return "undefined" if math.isnan(value) else f"{value:+.4f}"
