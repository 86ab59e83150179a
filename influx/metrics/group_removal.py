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
from influx.metrics.aligned import MIN_ROWS, left_out
from influx.metrics.banks import BankName, check_bank, named, stated, under_seeds
from influx.metrics.per_test import summarise
from influx.metrics.refit import check_chosen, check_seeds, check_shares, counts_for
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
    Intervals: 95% percentile bootstrap over groups and test instances together, which errs on the wide side; ranks are
        taken anew in each resample, which are moved by their mean difference from the estimate.
    Degenerate: test instances whose estimates or truths are constant or not finite; they are counted in the note.
    Not applicable: the slope of scores that are not in units of loss; the ceiling of one seed.
    Needs: retraining.
    Cost: kinds · groups · seeds trainings and seeds on everything, once per problem; kinds · groups · n · m operations.
    Source: Koh et al. 2019, arXiv:1905.13289, sections 2 and 3.

    Attributes:
        kinds: random and alike, or one of them.
        groups: number of groups of each kind; they may overlap.
        share: of the training instances, in each group.
        seeds: trainings without each group.
        loss_norm: what a batch's loss is divided by: its size (full) or what is left of it (subset).
        bank: test, or tune for other groups and models, which never judge.
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
        """Trainings without each group, and ranks taken anew in every resample."""
        n, m = len(prospect.train), len(prospect.test)
        designs = [design for kind in self.kinds for design in self._designs(self._members(prospect, kind))]
        return Work(
            trainings=tuple(designs),
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
        members, protocol = self._members(run, kind), sentences(KINDS[kind], self._protocol(run))
        truths = np.stack([self._effects(run, design) for design in self._designs(members)])  # (seeds, groups, m)
        with np.errstate(invalid="ignore"):  # 0 · NaN where scores are missing: not finite, and counted
            estimate = members.astype(np.float64) @ np.asarray(influence.values, dtype=np.float64)
        truth = truths.mean(axis=0)
        broken = ~(np.isfinite(estimate).all(axis=0) & np.isfinite(truth).all(axis=0))
        constant = constant_columns(influence.values) | constant_columns(truth)
        usable, note = ~(broken | constant), left_out(broken, constant)
        rows = counts_of(resample(run.rng(f"{kind} groups"), self.groups, self.n_boot))
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
        low, high = interval(slope.samples)
        total, moved = float(np.abs(estimate).mean()), float(np.abs(truth).mean())
        return Measured(
            metric=name,
            value=slope.value,
            ci_low=low,
            ci_high=high,
            n=estimate.shape[1],
            protocol=sentences(f"slope of truth on estimate over groups and test instances; {protocol}", self._over),
            note=sentences(f"mean size: estimate {total:.3g}, truth {moved:.3g}", note),
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
        ids, size = run.train.ids, counts_for([self.share], len(run.train), SHARE)[0]
        draws = run.drawn(named(self.bank, f"removed groups/{kind}"))
        if kind == "random":
            return subsets.fixed_size(ids, size, self.groups, draws).astype(bool)
        return alike(run.train.x, ids, size, self.groups, draws)

    def _designs(self, members: Masks) -> list[Design]:
        """Everything, then without each group: one design per seed."""
        designs = [subsets.without_groups(members, seed, self.loss_norm) for seed in range(self.seeds)]
        return [under_seeds(design, self.bank) for design in designs]

    def _effects(self, run: Run, design: Design) -> FloatArray:
        """``(groups, m)`` rise of the loss without each group."""
        losses = np.empty((len(design), len(run.test)))
        for rows, _, test in run.retrain.parts(design, "retraining without groups"):
            losses[rows] = test.loss
        return np.asarray(losses[1:] - losses[0])

    @property
    def _over(self) -> str:
        return f"95% CI: bootstrap over groups and test instances x{self.n_boot}"

    def _protocol(self, run: Run) -> str:
        n, size = len(run.train), counts_for([self.share], len(run.train), SHARE)[0]
        return sentences(
            f"{self.groups} groups of {size} of {n} training instances, {len(run.test)} test instances",
            f"seeds={self.seeds}, paired; loss_norm={self.loss_norm}; ties share their average rank",
            stated(self.bank),
        )


def alike(x: NDArray[np.generic], ids: NDArray[np.int64], size: int, count: int, rng: np.random.Generator) -> Masks:
    """``(count, n)`` groups of a drawn instance and those nearest to it, ``size`` in all; the same in any order.

    ``x`` is (n, ...). Equal distances go to the smaller id.
    """
    flat = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    by_id = np.argsort(ids, kind="stable")
    rounds = [rng.permutation(len(x)) for _ in range(-(-count // len(x)))]  # centres differ while there are others
    members = np.zeros((count, len(x)), dtype=bool)
    for row, centre in zip(members, np.concatenate(rounds)[:count].tolist(), strict=True):
        away = ((flat[by_id] - flat[by_id[centre]]) ** 2).sum(axis=1)
        away[centre] = -1.0  # before its copies
        row[by_id[np.argsort(away, kind="stable")[:size]]] = True
    return members
