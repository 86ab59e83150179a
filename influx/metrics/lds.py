"""Linear datamodeling score: do summed influences rank models trained on random subsets?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import MIN_ROWS, left_out, unscored
from influx.metrics.banks import BankName, check_bank, columns_of, judging, named, seeds_of, stated
from influx.metrics.predicted import FILE_BYTES, HELD_BYTES, Predicted, kept
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
    standardise,
    weighted_mean,
)
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design, LossNorm
from influx.run import Run
from influx.streams import stream

if TYPE_CHECKING:
    import pandas as pd

Output = Literal["loss", "margin"]


@dataclass(frozen=True, kw_only=True)
class LinearDatamodelingScore:
    """Linear datamodeling score (LDS).

    Measures: draw K subsets S of alpha·n training instances; per test instance j, the Spearman correlation over
        subsets between the prediction Σ_{i∈S} influence[i, j] and minus the loss (or the margin) of j under
        models trained on S, averaged over seeds; then the mean over test instances. ``lds_ceiling`` is the
        reliability of the observed outputs: their correlation between single seeds, corrected by Spearman-Brown
        to the mean over all seeds (with 2 seeds, the split-half formula).
    Kept: predictions and outcomes (mean over seeds) of every subset and test instance, for paired comparisons.
    Intervals: 95% percentile bootstrap that resamples subsets and test instances together; ranks are taken anew in each
        resample. A resample repeats subsets, which lowers a rank correlation
        by about 1/K; resamples are moved by their mean difference from the estimate, or the interval could miss it.
    Needs: retraining. The subsets depend on the problem's seed and on ``bank`` alone, so all estimators share the bank.
        With ``bank=tune`` they and the models are others, on half of the test instances, to choose settings by.
    Degenerate: test instances whose predictions or outputs are constant or not finite; they are counted in the note.
    Not applicable: training instances whose scores were not computed; the ceiling of one seed.
    Cost: K·seeds trainings, once per problem; K·n·m multiplications; n_boot·K·m for the interval.
    Source: Park et al. 2023, arXiv:2303.14186, Definition 2.3.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})

    alpha: float = 0.5
    subsets: int = 100
    seeds: int = 1
    loss_norm: LossNorm = "subset"
    output: Output = "loss"
    bank: BankName = "test"
    n_boot: int = 1000

    def __post_init__(self) -> None:
        check_resamples("metric.lds.n_boot", self.n_boot)
        check_bank("metric.lds.bank", self.bank)
        if not 0 < self.alpha < 1:
            raise ConfigError(f"metric.lds.alpha must be between 0 and 1, got {self.alpha}")
        for name, value, least in (("subsets", self.subsets, MIN_ROWS), ("seeds", self.seeds, 1)):
            if value < least:
                raise ConfigError(f"metric.lds.{name} must be at least {least}, got {value}")
        for name, choice, choices in (
            ("loss_norm", self.loss_norm, get_args(LossNorm)),
            ("output", self.output, get_args(Output)),
        ):
            if choice not in choices:
                raise ConfigError(f"metric.lds.{name} must be one of {', '.join(choices)}, got {choice!r}")

    def design(self, n_train: int, seed: int) -> Design:
        """The trainings behind the score, seed after seed: ``seeds`` · ``subsets`` models.

        Raises:
            ConfigError: ``alpha`` leaves no instance in or out of a subset.
        """
        size = int(self.alpha * n_train + 1e-9)  # 0.29 * 100 is 28.999…
        if size < 1:
            raise ConfigError(f"metric.lds.alpha={self.alpha} leaves no instance of {n_train}; raise it")
        masks = draw_masks(n_train, size, self.subsets, seed, named(self.bank, "lds/masks"))
        numbers = np.repeat(np.array(seeds_of(self.bank, self.seeds), dtype=np.int64), self.subsets)
        return Design(
            weights=np.tile(masks, (self.seeds, 1)), init=numbers, order=numbers.copy(), loss_norm=self.loss_norm
        )

    def plan(self, prospect: Prospect) -> Work:
        """Trainings on subsets, and ranks taken anew in every resample."""
        n, m = len(prospect.train), len(judging(prospect, self.bank))
        rows = float(kept(self.subsets * m))
        arrays = 2 + (self.seeds if self.seeds > 1 else 0)  # prediction and outcome, and each seed for the ceiling
        return Work(
            trainings=(self.design(n, prospect.problem.seed),),
            flops=4.0 * self.subsets * n * m,
            numbers=3.0 * arrays * self.n_boot * self.subsets * m,
            bytes=self.seeds * self.subsets * 16.0 * (n + m)
            + 8.0 * self.n_boot * (m + 4 * self.subsets)
            + HELD_BYTES * rows,
            disk=FILE_BYTES * rows,
            formula=f"{self.seeds} x {self.subsets} trainings; {self.n_boot} x {self.subsets} x {m} resampled ranks",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Two rows, ``lds`` and ``lds_ceiling``, and what they were taken from, see ``Predicted``."""
        tests, missing = judging(run, self.bank), unscored(influence)
        unpredicted = unavailable(["lds"], missing.status, missing.note, self._protocol(run)) if missing else []
        if missing and self.seeds < 2:
            return tidy([*unpredicted, *self._no_ceiling(run)])  # nothing to train models for
        design = self.design(len(run.train), run.problem.seed)
        _, outcomes = run.retrain.outcomes(design, "subsets for the linear datamodeling score")
        helpful = columns_of(-outcomes.loss if self.output == "loss" else outcomes.margin, tests)
        observed = np.asarray(helpful, dtype=np.float64).reshape(self.seeds, self.subsets, -1)  # (seeds, K, m)
        rows = unpredicted
        tables: dict[str, pd.DataFrame] = {}
        if not missing:
            values, masks = columns_of(influence.values, tests), design.weights[: self.subsets]
            found = Predicted(
                predicted=_sums(values, masks), observed=observed.mean(axis=0), test_ids=run.test.ids[tests]
            )
            score = self._measured("lds", np.stack([found.predicted, found.observed]), run)
            rows, tables = [replace(score, note=sentences(score.note, found.note))], found.tables()
        ceiling = (
            [self._measured("lds_ceiling", observed, run, self.seeds)] if self.seeds > 1 else self._no_ceiling(run)
        )
        return tidy([*rows, *ceiling], tables)

    def _no_ceiling(self, run: Run) -> list[Measured]:
        note = "metric.lds.seeds=1: a ceiling needs at least 2 seeds"
        return unavailable(["lds_ceiling"], "not applicable", note, self._protocol(run))

    def _measured(self, metric: str, arrays: FloatArray, run: Run, correct_to: int = 1) -> Measured:
        """Mean over test instances of the mean pairwise Spearman correlation of ``arrays`` (R, K, m)."""
        protocol = self._protocol(run)
        broken = np.asarray(~np.isfinite(arrays).all(axis=(0, 1)))
        constant = np.any([constant_columns(values) for values in arrays], axis=0)
        note = left_out(broken, constant)
        arrays = arrays[:, :, ~(broken | constant)]
        n = arrays.shape[2]
        if not n:
            return Measured(metric=metric, status="degenerate", protocol=protocol, note=note)
        value = mean_pairwise(np.stack([standardise(ranks(values)) for values in arrays])).mean()
        subset_counts = counts_of(resample(run.rng("subsets"), self.subsets, self.n_boot))
        test_counts = counts_of(resample(run.rng("test instances"), n, self.n_boot))
        samples = weighted_mean(resampled_spearman(arrays, subset_counts), test_counts)
        samples = np.clip(samples + (value - np.nanmean(samples)), -1.0, 1.0)
        low, high = interval(spearman_brown(samples, correct_to) if correct_to > 1 else samples)
        if n == 1:
            low, high, note = math.nan, math.nan, sentences(note, "no interval from a single test instance")
        value = float(spearman_brown(value, correct_to)) if correct_to > 1 else float(value)
        return Measured(metric=metric, value=value, ci_low=low, ci_high=high, n=n, protocol=protocol, note=note)

    def _protocol(self, run: Run) -> str:
        return sentences(
            f"alpha={self.alpha}, K={self.subsets} subsets, seeds={self.seeds}, loss_norm={self.loss_norm}, "
            f"output={self.output}",
            f"mean over {len(judging(run, self.bank))} test instances, {len(run.train)} training instances",
            stated(self.bank),
            f"95% CI: bootstrap over subsets and test instances x{self.n_boot}",
        )


def _sums(values: NDArray[Any], masks: NDArray[Any]) -> FloatArray:
    """``(K, m)`` sums of ``values`` (n, m) over the members of each subset; of a constant column all are one number."""
    with np.errstate(invalid="ignore"):  # 0 · inf: not finite, and counted
        sums = np.asarray(masks.astype(np.float64) @ np.asarray(values, dtype=np.float64))
    flat = constant_columns(values)  # sums of a constant over equal-sized subsets differ by rounding alone
    sums[:, flat] = sums[0, flat]
    return sums


def draw_masks(n: int, size: int, subsets: int, seed: int, what: str = "lds/masks") -> NDArray[np.uint8]:
    """``(subsets, n)`` masks with ``size`` ones each; more subsets extend the list without changing its start."""
    rng = stream(seed, what)
    masks = np.zeros((subsets, n), dtype=np.uint8)
    for mask in masks:
        mask[rng.permutation(n)[:size]] = 1
    return masks
