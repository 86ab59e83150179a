"""Are mislabeled training instances found?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.influence import Influence
from influx.metrics.detection import detect, stratified_counts
from influx.metrics.statistics import check_resamples, constant_columns, interval
from influx.metrics.tidy import Measured, Status, sentences, tidy, unavailable
from influx.needs import Need
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("auroc", "ap", "recall")
RULES = {
    "self": "suspect: high self-influence",
    "sum": "suspect: low influence summed over test instances, which uses their labels",
}


def names(rule: str) -> list[str]:
    """Metric names of one way to rank suspects: ``self`` or ``sum``."""
    return [f"mislabel_{kind}_{rule}" for kind in KINDS]


@dataclass(frozen=True, kw_only=True)
class Mislabel:
    """Detection of label noise whose truth is known, because a corruption put it there.

    Measures: AUROC, average precision and recall at the true number of flips, of ranking training instances by
        self-influence (``_self``, high is suspect) and by influence summed over test instances (``_sum``, low
        is suspect). Chance is 0.5 for AUROC and the share of flips for the other two.
    Intervals: 95% percentile bootstrap over training instances, flipped and clean ones resampled apart.
    Degenerate: constant scores, as the self-influence of normalised methods is.
    Cost: n·log n + n_boot·n, and n·m for the sum.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    n_boot: int = 1000

    def __post_init__(self) -> None:
        check_resamples("metric.mislabel.n_boot", self.n_boot)

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Six rows: AUROC, average precision and recall by self-influence and by summed influence."""
        flags = run.problem.data.flags.get("mislabeled")
        refusal = _unfit(flags)
        if flags is None or refusal:
            return tidy(unavailable([*names("self"), *names("sum")], "not applicable", refusal))
        mislabeled = np.asarray(flags).astype(bool)
        if influence.self_influence is None or influence.self_influence_note:
            reason = influence.self_influence_note or "this estimator gives no self-influence"
            rows = unavailable(names("self"), "not applicable", reason, RULES["self"])
        else:
            rows = list(self._rows("self", influence.self_influence, mislabeled, run))
        # Rows are summed in float64; spread is judged against the rounding of the stored numbers.
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, and counted below
            total = np.sum(influence.values, axis=1, dtype=np.float64).astype(influence.values.dtype)
        return tidy([*rows, *self._rows("sum", -total, mislabeled, run)])

    def _rows(self, rule: str, suspicion: NDArray[Any], flags: NDArray[np.bool_], run: Run) -> Iterator[Measured]:
        problem = _degenerate(suspicion)
        share = f"{int(flags.sum())} of {len(flags)} training instances mislabeled"
        interval_of = f"n: training instances; 95% CI: stratified bootstrap over training instances x{self.n_boot}"
        protocol = sentences(RULES[rule], share, interval_of)
        if problem:
            yield from unavailable(names(rule), problem[0], problem[1], protocol)
            return
        counts = stratified_counts(flags, self.n_boot, run.rng("training instances"))
        weights = np.vstack([np.ones(len(flags)), counts])  # the first resample is the data itself
        found = detect(np.asarray(suspicion, dtype=np.float64), flags, weights)
        chance = flags.mean()
        measures = ((found.auroc, 0.5), (found.average_precision, chance), (found.recall, chance))
        for name, (samples, random) in zip(names(rule), measures, strict=True):
            low, high = interval(samples[1:])
            yield Measured(
                metric=name,
                value=float(samples[0]),
                ci_low=low,
                ci_high=high,
                n=len(flags),
                protocol=protocol,
                note=f"random ranking: {random:.4f}",
            )


def _unfit(flags: NDArray[Any] | None) -> str:
    if flags is None:
        return "corruption=none: no training instance is known to be mislabeled"
    if not np.any(flags):
        return "no training instance is mislabeled; raise the corruption's rate"
    return "all training instances are mislabeled; lower the corruption's rate" if np.all(flags) else ""


def _degenerate(scores: NDArray[Any]) -> tuple[Status, str] | None:
    unknown = int((~np.isfinite(scores)).sum())
    if unknown:
        return "degenerate", f"{unknown} of {len(scores)} training instances have no finite score"
    if constant_columns(scores.reshape(-1, 1))[0]:
        return "degenerate", "all training instances have the same score"
    return None
