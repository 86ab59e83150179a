"""Leave-group-out: do summed influences predict what happens when a whole group is removed?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import pooled
from influx.metrics.aligned import MIN_ROWS, left_out, unscored
from influx.metrics.banks import (
    BankName,
    check_bank,
    columns_of,
    distinct_seeds,
    judging,
    named,
    removed,
    stated,
    under_seeds,
)
from influx.metrics.per_test import summarise
from influx.metrics.refit import Rows, check_chosen, check_seeds, check_shares
from influx.metrics.resampled import resampled_spearman
from influx.metrics.statistics import (
    FloatArray,
    check_resamples,
    constant_columns,
    counts_of,
    interval,
    mean_pairwise,
    ranks,
    resample,
    spearman_brown,
    spearman_columns,
    standardise,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design, LossNorm
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["random", "alike"]
Masks = NDArray[np.bool_]
SHARE = "metric.group_removal.share"
SINGLE = "no interval from a single test instance"
CHUNK = 250_000  # numbers of instances that are looked at together
KINDS: Mapping[str, str] = {
    "random": "groups drawn at random",
    "alike": "groups of a random instance and its nearest neighbours (Euclidean distance of inputs)",
}


@dataclass(frozen=True, kw_only=True)
class GroupRemoval:
    """Summed influence of a group against the effect of removing it.

    Measures: for groups G of equal size, the estimate Σ_{i∈G} influence[i, j] and the truth, the loss of test instance
        j without G minus that with everything, averaged over seeds. ``group_rank_<kind>``: their correlation over
        groups, averaged over test instances. ``group_slope_<kind>``: least-squares slope of truth on estimate over all
        groups and test instances, 1 where sums are calibrated, below 1 where they are too large and above where too
        small. ``group_reliability_<kind>``: reliability of the truth, the correlation between single seeds corrected by
        Spearman-Brown to the mean over all.
    Intervals: 95% percentile bootstrap over groups and test instances together; ranks are taken anew in each
        resample, which are moved by their mean difference from the estimate. Missing for a single test instance.
    Degenerate: test instances whose estimates or truths are constant or not finite; they are counted in the note.
    Not applicable: training instances whose scores were not computed; the slope of scores that are not in units of
        loss; the ceiling of one seed; groups that are alike among texts, whose tokens have no distances.
    Needs: retraining.
    Cost: kinds · groups · seeds trainings and seeds on everything, once per problem; kinds · groups · n · m operations.
    Source: Koh et al. 2019, arXiv:1905.13289, sections 2 and 3.

    Attributes:
        kinds: random and alike, or one of them.
        groups: number of groups of each kind; they may overlap.
        share: of the training instances, in each group.
        seeds: trainings without each group.
        loss_norm: what a batch's loss is divided by: its size (full) or what is left of it (subset).
        bank: test, or tune for other groups and models, which never judge, on half of the test instances.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    kinds: list[Kind] = field(default_factory=lambda: ["random", "alike"])
    groups: int = 30
    share: float = 0.05
    seeds: int = 2
    loss_norm: LossNorm = "full"
    bank: BankName = "test"
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_chosen("metric.group_removal.kinds", self.kinds, get_args(Kind))
        check_shares(SHARE, [self.share], most=0.9)
        check_seeds("metric.group_removal.seeds", self.seeds)
        check_bank("metric.group_removal.bank", self.bank)
        check_resamples("metric.group_removal.n_boot", self.n_boot)
        if self.groups < MIN_ROWS:
            raise ConfigError(f"metric.group_removal.groups must be at least {MIN_ROWS}, got {self.groups}; raise it")
        if self.loss_norm not in get_args(LossNorm):
            raise ConfigError(
                f"metric.group_removal.loss_norm must be full or subset, got {self.loss_norm!r}; change it"
            )

    def plan(self, prospect: Prospect) -> Work:
        """Trainings without each group, and ranks taken anew in every resample; like groups are counted, not found."""
        n, m = len(prospect.train), len(judging(prospect, self.bank))
        self._size(n)
        listed = self._designs(self._members(prospect, "random")) if "random" in self.kinds else []
        more = (self.groups if listed else 1 + self.groups) * distinct_seeds(prospect, self.seeds)
        like = "alike" in self.kinds and prospect.problem.data.kind != "text"
        return Work(
            trainings=tuple(listed),
            more_trainings=float(more) if like else 0.0,
            flops=4.0 * len(self.kinds) * self.groups * n * m,
            numbers=3.0 * (2 + self.seeds) * len(self.kinds) * self.n_boot * self.groups * m,
            bytes=16.0 * self.seeds * self.groups * (n + m) + 8.0 * self.n_boot * (m + 4.0 * self.groups),
            formula=f"{self.seeds} seeds x ({len(self.kinds)} kinds x {self.groups} groups + 1) trainings",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows per kind."""
        if run.removal_noise:
            run.warn(run.removal_noise)
        return tidy(row for kind in self.kinds for row in self._of_kind(kind, influence, run))

    def _of_kind(self, kind: str, influence: Influence, run: Run) -> Iterator[Measured]:
        protocol = sentences(KINDS[kind], self._protocol(run))
        if kind == "alike" and run.problem.data.kind == "text":
            yield from unavailable(_names(kind), "not applicable", "tokens of texts have no distances", protocol)
            return
        members, tests = self._members(run, kind), judging(run, self.bank)
        truths = np.stack([self._effects(run, design, tests) for design in self._designs(members)])
        rows = counts_of(resample(run.rng(f"{kind} groups"), self.groups, self.n_boot))
        if missing := unscored(influence):
            yield from unavailable(_names(kind)[:2], missing.status, missing.note, protocol)
            yield self._ceiling(kind, truths, rows, run, protocol)
            return
        values = columns_of(influence.values, tests)
        with np.errstate(invalid="ignore"):  # 0 · NaN where scores are missing: not finite, and counted
            estimate = members.astype(np.float64) @ np.asarray(values, dtype=np.float64)
        truth = truths.mean(axis=0)
        broken = ~(np.isfinite(estimate).all(axis=0) & np.isfinite(truth).all(axis=0))
        constant = constant_columns(values) | constant_columns(estimate) | constant_columns(truth)
        usable, note = ~(broken | constant), left_out(broken, constant)
        yield self._spearman(kind, estimate[:, usable], truth[:, usable], rows, run, protocol, note)
        yield self._slope(kind, estimate[:, usable], truth[:, usable], rows, run, influence, protocol, note)
        yield self._ceiling(kind, truths, rows, run, protocol)

    def _spearman(
        self, kind: str, estimate: FloatArray, truth: FloatArray, rows: FloatArray, run: Run, protocol: str, note: str
    ) -> Measured:
        samples = resampled_spearman(np.stack([estimate, truth]), rows) if estimate.shape[1] else None
        found = summarise(
            f"group_rank_{kind}",
            spearman_columns(estimate, truth),
            rng=run.rng("test instances"),
            n_boot=self.n_boot,
            samples=samples,
            note=note,
        )
        return self._stated(found, protocol)

    def _slope(
        self,
        kind: str,
        estimate: FloatArray,
        truth: FloatArray,
        rows: FloatArray,
        run: Run,
        influence: Influence,
        protocol: str,
        note: str,
    ) -> Measured:
        name = f"group_slope_{kind}"
        if influence.scale != "loss":
            reason = "a slope needs scores in loss units; this estimator's scale is rank"
            return unavailable([name], "not applicable", reason, protocol)[0]
        if not estimate.shape[1]:
            return unavailable([name], "degenerate", note, protocol)[0]
        counts = counts_of(resample(run.rng("test instances"), estimate.shape[1], self.n_boot))
        slope = pooled.pearson_and_slope(estimate, truth, counts, rows)[1]
        if not np.isfinite(slope.value):
            return unavailable([name], "degenerate", sentences("no slope: estimates have no spread", note), protocol)[0]
        single = estimate.shape[1] == 1
        low, high = (np.nan, np.nan) if single else interval(slope.samples)
        total, moved = float(np.abs(estimate).mean()), float(np.abs(truth).mean())
        return Measured(
            metric=name,
            value=slope.value,
            ci_low=low,
            ci_high=high,
            n=estimate.shape[1],
            protocol=sentences(f"slope of truth on estimate over groups and test instances; {protocol}", self._over),
            note=sentences(f"mean size: estimate {total:.3g}, truth {moved:.3g}", note, SINGLE if single else ""),
        )

    def _ceiling(self, kind: str, truths: FloatArray, rows: FloatArray, run: Run, protocol: str) -> Measured:
        name = f"group_reliability_{kind}"
        if self.seeds < 2:
            reason = "metric.group_removal.seeds=1: a ceiling needs at least 2 seeds"
            return unavailable([name], "not applicable", reason, protocol)[0]
        broken = np.asarray(~np.isfinite(truths).all(axis=(0, 1)))
        constant = np.any([constant_columns(values) for values in truths], axis=0)
        used = truths[:, :, ~(broken | constant)]
        found = summarise(
            name,
            mean_pairwise(np.stack([standardise(ranks(values)) for values in used])),
            rng=run.rng("test instances"),
            n_boot=self.n_boot,
            samples=resampled_spearman(used, rows) if used.shape[2] else None,
            then=lambda r: spearman_brown(r, self.seeds),
            note=left_out(broken, constant),
        )
        return self._stated(found, protocol)

    def _stated(self, found: Measured, protocol: str) -> Measured:
        return replace(found, protocol=sentences("mean over test instances", protocol, self._over))

    def _members(self, run: Run | Prospect, kind: str) -> Masks:
        """``(groups, n)`` members."""
        ids, size = run.train.ids, self._size(len(run.train))
        draws = run.drawn(named(self.bank, f"removed groups/{kind}"))
        if kind == "random":
            return subsets.fixed_size(ids, size, self.groups, draws).astype(bool)
        return alike(run.train.x, ids, size, self.groups, draws)

    def _size(self, n: int) -> int:
        return removed([self.share], n, SHARE)[0]

    def _designs(self, members: Masks) -> list[Design]:
        """Everything, then without each group: one design per seed."""
        designs = [subsets.without_groups(members, seed, self.loss_norm) for seed in range(self.seeds)]
        return [under_seeds(design, self.bank) for design in designs]

    def _effects(self, run: Run, design: Design, tests: Rows) -> FloatArray:
        """``(groups, tests)`` rise of the loss without each group."""
        losses = np.empty((len(design), len(tests)))
        for rows, _, test in run.retrain.parts(design, "retraining without groups"):
            losses[rows] = columns_of(test.loss, tests)
        return np.asarray(losses[1:] - losses[0])

    @property
    def _over(self) -> str:
        return f"95% CI: bootstrap over groups and test instances x{self.n_boot}"

    def _protocol(self, run: Run) -> str:
        n, m = len(run.train), len(judging(run, self.bank))
        return sentences(
            f"{self.groups} groups of {self._size(n)} of {n} training instances, {m} test instances",
            f"seeds={self.seeds}, paired; loss_norm={self.loss_norm}; ties share their average rank",
            stated(self.bank),
        )


def _names(kind: str) -> list[str]:
    return [f"group_{what}_{kind}" for what in ("rank", "slope", "reliability")]


def alike(x: NDArray[np.generic], ids: NDArray[np.int64], size: int, count: int, rng: np.random.Generator) -> Masks:
    """``(count, n)`` groups of a drawn instance and those nearest to it, ``size`` in all; the same in any order.

    ``x`` is (n, ...). Equal distances go to the smaller id.
    """
    flat = x.reshape(len(x), -1)
    by_id = np.argsort(ids, kind="stable")
    rounds = [rng.permutation(len(x)) for _ in range(-(-count // len(x)))]  # centres differ while there are others
    centres = np.concatenate(rounds)[:count]
    away = _squared_distances(flat, by_id, centres)
    away[np.arange(count), centres] = -1.0  # before its copies
    members = np.zeros((count, len(x)), dtype=bool)
    for row, far in zip(members, away, strict=True):
        row[by_id[np.argsort(far, kind="stable")[:size]]] = True
    return members


def _squared_distances(flat: NDArray[np.generic], order: Rows, centres: Rows) -> FloatArray:
    """``(centres, n)`` of instances ``flat`` (n, d) taken in an order, in float64, some instances at a time."""
    found, step = np.empty((len(centres), len(flat))), max(1, CHUNK // max(1, flat.shape[1]))
    at = np.asarray(flat[order[centres]], dtype=np.float64)
    for start in range(0, len(flat), step):
        part = np.asarray(flat[order[start : start + step]], dtype=np.float64)
        for row, centre in zip(found, at, strict=True):
            row[start : start + step] = ((part - centre) ** 2).sum(axis=1)
    return found
