"""What a density model makes: copies, and which training instances it owes them to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.pixels import seen_as
from influx.engines import generation
from influx.engines.generation import Generated
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.metrics.aligned import left_out
from influx.metrics.detection import MIN_GROUP, resampled, stratified_interval
from influx.metrics.statistics import FloatArray, check_resamples, constant_columns, counts_of, interval, resample
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.metrics.unfairness import wilson
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Data
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

SETTING = "metric.generated"
COPIES = ("generated_copying", "generated_authentic")
INFLUENCE = ("generated_nearest_place", "generated_nearest_share", "generated_same_label")
NAMES = (*COPIES, *INFLUENCE)
TABLE, IMAGES = "generated", "generated_images"
ROLES = {"proponent": -1, "opponent": 1}


@dataclass(frozen=True, kw_only=True)
class GeneratedSamples:
    """Influence of the training instances on what the trained density model generates.

    Measures: ``generated_copying``, the chance that a sample lies nearer to the training instances than a test instance
        does (0.5 without copying; more is copying, less is far from the data; expected features, which most models
        return, lack the noise of data and lie nearer); ``generated_authentic``, the share of samples farther from their
        nearest training instance than that is from the nearest one that is not equal to it. By influence on a sample's
        risk, means over samples: ``generated_nearest_place``, the share of training instances that help it more than
        the nearest one (0.5 by chance); ``generated_nearest_share``, of its ``k`` nearest, the share among its k
        strongest proponents; ``generated_same_label``, the share of these that have its label (the one asked for, or
        that of the nearest training instance). Tables: generated, with proponents and opponents of every sample, and
        generated_images.
    Not applicable: models that make no samples; the estimator retrains models, of which the bank keeps no more than
        what they make of the run's own instances.
    Degenerate: samples that are not finite; influence on a sample that is constant or not finite, which is left out.
    Intervals: 95%. Percentile bootstrap over samples (and test instances), none from fewer than 5 of them or where all
        resamples agree; Wilson's for shares of samples.
    Cost: one estimate with ``samples`` test instances; (n + m + samples)·n·d for distances.
    Source: copying: Meehan et al. 2020, arXiv:2004.05675, its two-sample statistic; authenticity: Alaa et al. 2022,
        arXiv:2102.08921. Influence on samples: Kong & Chaudhuri 2021, arXiv:2105.14203.

    Attributes:
        samples: how many.
        k: proponents and neighbours.
        listed: proponents, and opponents, of each sample in the table.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    samples: int = 100
    k: int = 10
    listed: int = 5
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples(f"{SETTING}.n_boot", self.n_boot)
        for name in ("samples", "k", "listed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{SETTING}.{name} must be at least 1, got {getattr(self, name)}; raise it")

    def plan(self, prospect: Prospect) -> Work:
        """Distances and orders; the estimate is not counted."""
        n, m, d = len(prospect.train), len(prospect.test), int(np.prod(prospect.train.x.shape[1:]))
        return Work(
            flops=2.0 * n * (n + m + self.samples) * d,
            numbers=float(n * (n + m + self.samples)) + 20.0 * self.n_boot * (m + self.samples),
            compared=n * self.samples * float(np.log2(max(n, 2))),
            bytes=8.0 * n * (n + m + self.samples),
            formula=f"{n} x ({n} + {m} + {self.samples}) distances; one more estimate with {self.samples} instances",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """The rows named in ``NAMES``, and the tables."""
        data, n = run.problem.data, len(run.train)
        if data.task != "density":
            return tidy(unavailable(NAMES, "not applicable", "the model is no density model; model=vae is one"))
        if self.k > n:
            return tidy(
                unavailable(NAMES, "not applicable", f"{SETTING}.k={self.k} is more than the {n} training instances")
            )
        try:
            made = generation.generated(run.fitted, data, self.samples, self.k, run.problem.seed)
        except ValueError as error:  # of distances to what is not finite
            return tidy(unavailable(NAMES, "degenerate", f"the samples have no distances: {error}"))
        if made is None:
            return tidy(unavailable(NAMES, "not applicable", "the model makes no samples; model=vae does"))
        rows = list(self._copies(made, run))
        try:
            found = run.again.on(made.split)
        except IncompatibleError as error:
            return tidy([*rows, *unavailable(INFLUENCE, "not applicable", str(error))], tables=_images(made, data))
        rows += self._by_influence(found, made, run)
        return tidy(rows, tables={TABLE: self._table(found, made, data), **_images(made, data)})

    def _copies(self, made: Generated, run: Run) -> Iterator[Measured]:
        """What does not depend on influence."""
        mine = made.nearest.distance[:, 0]
        test = generation.nearest(run.train, run.test.x, 1).distance[:, 0]
        flags = np.arange(len(mine) + len(test)) < len(mine)
        samples = resampled(-np.concatenate([mine, test]), flags, self.n_boot, run.rng("samples and test"), ()).auroc
        low, high, none = stratified_interval(samples, flags, "samples")
        protocol = f"Euclidean distance to the nearest of {len(run.train)} training instances"
        yield Measured(
            metric=COPIES[0],
            value=float(samples[0]),
            ci_low=low,
            ci_high=high,
            n=len(flags),
            protocol=sentences(
                protocol,
                f"{len(mine)} samples against {len(test)} test instances",
                f"95% CI: stratified bootstrap over both x{self.n_boot}",
            ),
            note=sentences("without copying: 0.5", none),
        )
        own, copies = generation.different(run.train)
        protocol = sentences(protocol, f"{copies} of them copies of others" if copies else "")
        if not np.isfinite(own).all():
            yield unavailable(COPIES[1:], "degenerate", "all training instances are equal", protocol)[0]
            return
        share = float((mine > own[made.nearest.rows[:, 0]]).mean())
        low, high = wilson(share, len(mine))
        yield Measured(
            metric=COPIES[1],
            value=share,
            ci_low=low,
            ci_high=high,
            n=len(mine),
            protocol=sentences(protocol, "n: samples; 95% CI: Wilson"),
        )

    def _by_influence(self, found: Influence, made: Generated, run: Run) -> list[Measured]:
        """Means over samples of what the order by influence says."""
        computed, n = found.computed, len(run.train)
        if computed.sum() < self.k:
            reason = f"{SETTING}.k={self.k} is more than the {int(computed.sum())} training instances with scores"
            return unavailable(INFLUENCE, "not applicable", f"{reason}; lower it")
        values = np.asarray(found.values[computed], dtype=np.float64)
        broken, constant = np.asarray(~np.isfinite(values).all(axis=0)), constant_columns(found.values[computed])
        usable = ~(broken | constant)
        place, overlap, same = np.full((3, len(usable)), np.nan)
        names, label = np.flatnonzero(computed), made.split.y
        for column in np.flatnonzero(usable).tolist():
            mine = values[:, column]
            top = names[np.argsort(-mine, kind="stable")[: self.k]]
            near = np.flatnonzero(names == made.nearest.rows[column, 0])
            if len(near):  # ties count half
                place[column] = ((mine > mine[near[0]]).sum() + (mine == mine[near[0]]).sum() / 2 - 0.5) / max(
                    len(mine) - 1, 1
                )
            overlap[column] = np.isin(made.nearest.rows[column], top).mean()
            same[column] = (run.train.y[top] == label[column]).mean()
        whose = "given" if made.given else "of the nearest training instance"
        chance = (0.5, self.k / n, float((run.train.y[names][:, None] == label).mean()))
        said = ("", f"k={self.k}", f"k={self.k}, label {whose}")
        protocol = (
            f"estimator alone on {len(usable)} samples, without perspective; {len(names)} of {n} training instances"
        )
        rows = [
            self._mean(name, share, run, sentences(told, protocol), sentences(f"random ranking: {random:.4f}", lost))
            for name, share, told, random, lost in zip(
                INFLUENCE, (place, overlap, same), said, chance, [left_out(broken, constant)] * 3, strict=True
            )
        ]
        if not run.problem.data.classes:
            rows[2:] = unavailable(INFLUENCE[2:], "not applicable", "the data have no classes", protocol)
        return rows

    def _mean(self, name: str, share: FloatArray, run: Run, protocol: str, note: str) -> Measured:
        share = share[np.isfinite(share)]
        protocol = sentences(
            "mean over samples", protocol, f"n: samples; 95% CI: bootstrap over samples x{self.n_boot}"
        )
        if not len(share):
            return Measured(metric=name, status="degenerate", protocol=protocol, note=note)
        low, high, none = np.nan, np.nan, f"no interval from {len(share)} samples"
        if len(share) >= MIN_GROUP:
            none = "no interval: all resamples agree" if np.ptp(share) == 0 else ""
        if not none:
            low, high = interval(counts_of(resample(run.rng("samples"), len(share), self.n_boot)) @ share / len(share))
        return Measured(
            metric=name,
            value=float(share.mean()),
            ci_low=low,
            ci_high=high,
            n=len(share),
            protocol=protocol,
            note=sentences(note, none),
        )

    def _table(self, found: Influence, made: Generated, data: Data) -> pd.DataFrame:
        """Proponents and opponents of every sample, with the nearest training instance."""
        import pandas as pd

        values, train = np.asarray(found.values, dtype=np.float64), data.train
        listed, count = min(self.listed, int(found.computed.sum())), values.shape[1]
        label, its = (_labels(data, y) for y in (train.y, made.split.y))
        parts = []
        for role, sign in ROLES.items():
            rows = np.argsort(sign * values, axis=0, kind="stable")[:listed].T.ravel()  # NaN sorts last
            of = np.repeat(np.arange(count), listed)
            columns: dict[str, Any] = {
                "sample": of,
                "label": its[of],
                "nearest_id": train.ids[made.nearest.rows[of, 0]],
                "nearest_distance": made.nearest.distance[of, 0],
                "role": role,
                "rank": np.tile(np.arange(1, listed + 1), count),
                "train_id": train.ids[rows],
                "train_label": label[rows],
                "influence": values[rows, of],
                "distance": _distances(made, train.x, of, rows),
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True).sort_values("sample", kind="stable").reset_index(drop=True)


def _distances(made: Generated, x: NDArray[Any], of: NDArray[np.int64], rows: NDArray[np.int64]) -> FloatArray:
    left, right = (np.asarray(a, dtype=np.float64).reshape(len(a), -1) for a in (made.split.x, x))
    return np.asarray(np.sqrt(((left[of] - right[rows]) ** 2).sum(axis=1)))


def _labels(data: Data, y: NDArray[Any]) -> NDArray[np.str_]:
    """Labels as text."""
    return np.array(data.classes)[y] if data.classes else np.array([f"{value:.4g}" for value in y])


def _images(made: Generated, data: Data) -> dict[str, pd.DataFrame]:
    """Samples as people see them, where the data are images: 8-bit pixels, channel by channel and row by row."""
    import pandas as pd

    if not data.display:
        return {}
    shown = seen_as(data, made.split.x)
    levels = shown if shown.dtype == np.uint8 else np.round(255 * shown).astype(np.uint8)
    _, channels, height, width = levels.shape
    columns: dict[str, Any] = {
        "sample": np.arange(len(levels)),
        "channels": channels,
        "height": height,
        "width": width,
        "pixels": [image.tobytes() for image in levels],
    }
    return {IMAGES: pd.DataFrame(columns)}
