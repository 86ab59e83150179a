"""Does one more training step on a proponent make the test instance's label more likely?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines.one_step import OneStep
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import left_out
from influx.metrics.per_test import summarise
from influx.metrics.ranking import top
from influx.metrics.statistics import FloatArray, check_resamples, constant_columns
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("tail_patch", "tail_patch_excess", "tail_patch_raised")


@dataclass(frozen=True, kw_only=True)
class TailPatch:
    """Change of log p(target) after one optimizer step on each of the strongest proponents.

    Measures: per test instance j and each of its k strongest proponents i, the fall of the risk of j (for classes, the
        rise of log p of its label) after one more step of the training's optimizer on i alone, from the end of
        training. ``tail_patch``: mean over the k, then over test instances. ``tail_patch_excess``: the same minus that
        of k training instances drawn at random, which takes out what the optimizer's memory and weight decay do in
        any case. ``tail_patch_raised``: share of proponents whose step lowers the risk. No retraining.
    Needs a net: a run with another model is refused.
    Not applicable: the learning rate is 0 at the end of training; k is more than the instances with scores.
    Degenerate: test instances whose influence is constant or not finite.
    Intervals: 95% percentile bootstrap over test instances.
    Cost: at most 2·k·m and n steps of one instance, and 2·k·m forward passes.
    Source: Chang et al. 2024, arXiv:2410.17413, section 3.3; the random control is an addition.

    Attributes:
        k: proponents.
        lr: learning rate of the step; null takes that of the last training step.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})

    k: int = 10
    lr: float | None = None
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.tail_patch.n_boot", self.n_boot)
        if self.k < 1:
            raise ConfigError(f"metric.tail_patch.k must be at least 1, got {self.k}; 10 is usual")
        if self.lr is not None and not 0 < self.lr < np.inf:
            raise ConfigError(f"metric.tail_patch.lr must be positive and finite or null, got {self.lr}; change it")

    def plan(self, prospect: Prospect) -> Work:
        """Steps on all instances at most, and the forward passes after them."""
        n, m = len(prospect.train), len(prospect.test)
        pairs = min(2.0 * self.k, n) * m
        macs = prospect.net.macs
        return Work(
            gradients=float(min(n, pairs)),
            flops=2.0 * macs * pairs,
            compared=n * m * float(np.log2(max(n, 2))),
            numbers=10.0 * n * m + 4.0 * self.n_boot * m,
            bytes=24.0 * n * m,
            formula=f"{min(n, pairs):.0f} steps, {pairs:.0f} risks",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Three rows: the names in ``NAMES``."""
        computed = np.flatnonzero(influence.computed)
        if self.k > len(computed):
            reason = f"metric.tail_patch.k={self.k} is more than the {len(computed)} training instances with scores"
            return tidy(unavailable(NAMES, "not applicable", f"{reason}; lower it"))
        step = OneStep(run.gradients.fitted)
        lr = step.last_rate if self.lr is None else self.lr
        if not lr > 0:
            reason = "the learning rate is 0 at the end of training; set metric.tail_patch.lr"
            return tidy(unavailable(NAMES, "not applicable", reason))
        values = influence.values[computed]
        broken, constant = ~np.isfinite(values).all(axis=0), constant_columns(values)
        usable = np.flatnonzero(~(broken | constant))
        best = computed[top(np.asarray(values[:, usable], dtype=np.float64), self.k, run.train.ids[computed])]  # (k, q)
        control = self._control(influence.computed, run)[:, usable]
        wanted = np.zeros((len(run.train), len(run.test)), bool)
        for rows in (best, control):
            wanted[rows, usable] = True
        fall = np.full(wanted.shape, np.nan)
        before = run.outcomes(run.test).loss
        for row, columns, losses in step.losses(run.train, run.test, wanted, lr):
            fall[row, columns] = before[columns] - losses
        gained, chance = fall[best, usable], fall[control, usable]  # (k, q)
        protocol = sentences(
            f"k={self.k}, ties by id; one step of {step.optimizer} on one instance, lr={lr:g}",
            "gradient in eval mode; fall of the risk, for classes the rise of log p(label)",
            f"{len(usable)} of {len(run.test)} test instances, {len(computed)} of {len(run.train)} training instances",
        )
        random = f"random proponents: {chance.mean():.4g}" if chance.size else ""
        note = sentences(random, left_out(broken, constant))
        numbers = (gained.mean(axis=0), gained.mean(axis=0) - chance.mean(axis=0), (gained > 0).mean(axis=0))
        return tidy(self._summary(name, found, run, protocol, note) for name, found in zip(NAMES, numbers, strict=True))

    def _summary(self, name: str, found: FloatArray, run: Run, protocol: str, note: str) -> Measured:
        return summarise(name, found, rng=run.rng("test instances"), n_boot=self.n_boot, protocol=protocol, note=note)

    def _control(self, computed: NDArray[np.bool_], run: Run) -> NDArray[np.int64]:
        """``(k, m)`` training instances with scores, drawn by id for each test instance, alike for all estimators."""
        rng, by_id = run.drawn("tail patch"), np.argsort(run.train.ids, kind="stable")
        found = np.empty((self.k, len(run.test)), np.int64)
        for column in np.argsort(run.test.ids, kind="stable"):
            order = by_id[rng.permutation(len(by_id))]
            found[:, column] = order[computed[order]][: self.k]
        return found
