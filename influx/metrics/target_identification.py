"""Which test instances does a poisoning aim at, and which training instances do it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.detection import chance_ap, held, moved, resampled, stratified_interval
from influx.metrics.flagged import flagged_rows, names
from influx.metrics.statistics import FloatArray, check_resamples, rounding
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.metrics.unfairness import wilson
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

NORMAL = 1.482602218505602  # standard deviation of a normal variable over its median absolute deviation
SUCCESS = "target_attack_success"


@dataclass(frozen=True, kw_only=True)
class TargetIdentification:
    """Targets of a poisoning by the upper tails of their influence, and the poison by influence on its target.

    Measures: per test instance, the heaviness of the upper tail, (k-th largest influence - median) / (1.4826 · median
        absolute deviation); ``target_auroc`` and ``target_auprc`` (average precision), of ranking test instances by it,
        targets against all others. ``poison_auprc`` and ``poison_auroc``: average precision and AUROC of a target's own
        poison among training instances ranked by influence on it, averaged over targets.
        ``target_attack_success``: share of targets predicted as the attacker wants; the same for all estimators.
        The first four look at test instances predicted as labelled, so that all influence is on what the model predicts
        and a failed attack is no target.
    Not applicable: no corruption=poison; no attack succeeded.
    Degenerate: a test instance over half of whose influences are equal, or not finite, has no tail; it is left out.
    Intervals: 95%. Percentile bootstrap over test instances, for the first two with targets and others resampled apart,
        none from fewer than 5 of a group, and average precision in resamples moved by its mean difference from the
        data; Wilson's for the success.
    Cost: n·m for the tails, n_boot·m.
    Source: Hammoudeh and Lowd 2022, arXiv:2201.10055, section 5, with the median absolute deviation in place of Qn.

    Attributes:
        k: how many of the largest influences have to be large; at most the poison of one target.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    k: int = 5
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.target_identification.n_boot", self.n_boot)
        if self.k < 1:
            raise ConfigError(f"metric.target_identification.k must be at least 1, got {self.k}; 5 is the default")

    def plan(self, prospect: Prospect) -> Work:
        """Medians of every column twice, and the resamples of the test instances."""
        n, m = len(prospect.train), len(prospect.test)
        return Work(
            numbers=30.0 * n * m + 20.0 * self.n_boot * m,
            bytes=24.0 * n * m + held(m, self.n_boot),
            formula=f"{n} x {m} cells for medians",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Five rows: two of targets, two of poison, and the attack's success."""
        data, everything = run.problem.data, [*names("target"), *names("poison"), SUCCESS]
        if "poison_of" not in data.flags or "target" not in data.test_flags:
            reason = "no test instance is the target of a poisoning; set corruption=poison"
            return tidy(unavailable(everything, "not applicable", reason))
        target = np.asarray(data.test_flags["target"]).astype(bool)
        hit = run.outcomes(run.test).prediction == run.test.y
        low, high = wilson(float(hit[target].mean()), int(target.sum()))
        success = Measured(
            metric=SUCCESS,
            value=float(hit[target].mean()),
            ci_low=low,
            ci_high=high,
            n=int(target.sum()),
            protocol="share of targets predicted as the attacker wants; n: targets; 95% CI: Wilson",
        )
        protocol = f"{int((target & hit).sum())} targets among {int(hit.sum())} test instances predicted as labelled"
        if not (target & hit).any():
            reason = "no target is predicted as the attacker wants: the attack failed"
            return tidy([*unavailable(everything[:-1], "not applicable", reason, protocol), success])
        values, computed = np.asarray(influence.values), influence.computed
        found = self._targets(values[computed][:, hit], target[hit], run, protocol)
        poison = np.asarray(data.flags["poison_of"])[:, None] == run.test.ids[target & hit]
        poisoned = flagged_rows(
            "poison",
            values[:, target & hit],
            poison,
            computed=computed,
            run=run,
            n_boot=self.n_boot,
            protocol=protocol,
        )
        return tidy([*found, *poisoned, success])

    def _targets(self, values: NDArray[Any], target: NDArray[np.bool_], run: Run, protocol: str) -> list[Measured]:
        """AUROC and average precision of targets among the columns of ``values``, by their upper tails."""
        protocol = sentences(
            protocol,
            f"test instances ranked by the robust z of their influence number k={self.k} from above",
            f"{len(values)} of {len(run.train)} training instances",
            f"n: test instances; 95% CI: stratified bootstrap over test instances x{self.n_boot}",
        )
        rows = names("target")
        if self.k > len(values):
            reason = f"metric.target_identification.k={self.k} is more than the {len(values)} training instances"
            reason = f"{reason} with scores; lower it"
            return unavailable(rows, "not applicable", reason, protocol)
        tail = upper_tail(values, self.k)
        known, finite = np.isfinite(tail), np.isfinite(values).all(axis=0)
        kinds = {"not finite": int((~finite).sum()), "no spread": int((finite & ~known).sum())}
        lost = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        note = f"of {len(tail)} test instances are left out for their influence: {lost}" if lost else ""
        tail, target = tail[known], target[known]
        if not target.any() or target.all():
            reason = "no target is left" if not target.any() else "no test instance but targets is left"
            return unavailable(rows, "degenerate", sentences(reason, note), protocol)
        found = resampled(tail, target, self.n_boot, run.rng("targets and others"))
        chance = chance_ap(len(target), int(target.sum()))
        measured = []
        for name, samples, random in zip(
            rows, (moved(found.average_precision), found.auroc), (chance, 0.5), strict=True
        ):
            low, high, none = stratified_interval(samples, target, "targets")
            measured.append(
                Measured(
                    metric=name,
                    value=float(samples[0]),
                    ci_low=low,
                    ci_high=high,
                    n=len(tail),
                    protocol=protocol,
                    note=sentences(f"random ranking: {random:.4f}", none, note),
                )
            )
        return measured


def upper_tail(values: NDArray[Any], k: int) -> FloatArray:
    """``(m,)`` robust z of the k-th largest of each column (n, m); NaN where it has no spread or is not finite.

    Spread is judged against the rounding of the dtype of ``values``.
    """
    numbers = np.asarray(values, dtype=np.float64)
    numbers = np.where(np.isfinite(numbers).all(axis=0), numbers, np.nan)
    median = np.median(numbers, axis=0)
    spread = np.median(np.abs(numbers - median), axis=0)
    spread = NORMAL * np.where(spread > rounding(values.dtype) * np.abs(median), spread, np.nan)
    kth = np.partition(numbers, len(numbers) - k, axis=0)[len(numbers) - k]
    return np.asarray((kth - median) / spread)
