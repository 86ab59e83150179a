"""Are mislabeled training instances found?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.detection import Detection, chance_ap, held, moved, resampled, stratified_interval
from influx.metrics.statistics import FloatArray, check_resamples, constant_columns
from influx.metrics.tidy import Measured, Status, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("auroc", "ap", "recall", "area", "found")
RULES = {
    "self": "suspect: high self-influence",
    "sum": "suspect: low influence summed over test instances, which uses their labels",
}
CURVE = tuple(step / 20 for step in range(21))  # shares inspected at which the curve is kept
BANDS = {"self": "self-influence", "sum": "summed influence"}


def names(rule: str) -> list[str]:
    """Metric names of one way to rank suspects: ``self`` or ``sum``."""
    return [f"mislabel_{kind}_{rule}" for kind in KINDS]


@dataclass(frozen=True, kw_only=True)
class Mislabel:
    """Detection of label noise whose truth is known, because a corruption put it there.

    Measures: AUROC, average precision (``ap``) and recall at the true number of flips, of ranking training instances by
        self-influence (``_self``, high is suspect) and by influence summed over test instances (``_sum``, low
        is suspect); ``area``, under the inspection curve of the share of flips found over the share inspected, and
        ``found``, that curve at ``share``. With a share ρ of flips, chance is 0.5 for AUROC and area, ρ for recall,
        a little more for average precision and ``share`` for found; the area is at most 1 - ρ/2. The curve is the
        table inspection.
    Intervals: 95% percentile bootstrap over training instances, flipped and clean ones resampled apart; none from fewer
        than 5 of a group. Average precision in resamples is moved by its mean difference from the data.
    Degenerate: constant scores, as the self-influence of normalised methods is.
    Cost: n·log n + n_boot·n, and n·m for the sum.
    Source: Koh and Liang 2017, arXiv:1703.04730, section 5.4.

    Attributes:
        share: of training instances inspected for ``found``.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    share: float = 0.2
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.mislabel.n_boot", self.n_boot)
        if not 0 < self.share < 1:
            raise ConfigError(f"metric.mislabel.share must be between 0 and 1, got {self.share}; 0.2 is the default")

    def plan(self, prospect: Prospect) -> Work:
        """Two orders, and sums down them in every resample; the sum over test instances."""
        n, m = len(prospect.train), len(prospect.test)
        return Work(
            compared=2.0 * n * float(np.log2(max(n, 2))),
            numbers=30.0 * self.n_boot * n + float(n * m),
            bytes=held(n, self.n_boot),
            formula=f"2 x {self.n_boot} x {n} resampled ranks",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Ten rows: each of ``KINDS`` by self-influence and by summed influence."""
        flags = run.problem.data.flags.get("mislabeled")
        refusal = _unfit(flags)
        if flags is None or refusal:
            return tidy(unavailable([*names("self"), *names("sum")], "not applicable", refusal))
        mislabeled = np.asarray(flags).astype(bool)
        curves: list[pd.DataFrame] = []
        if influence.self_influence is None or influence.self_influence_note:
            reason = influence.self_influence_note or "this estimator gives no self-influence"
            rows = unavailable(names("self"), "not applicable", reason, RULES["self"])
        else:
            rows = self._rows("self", influence.self_influence, mislabeled, run, curves)
        # Rows are summed in float64; spread is judged against the rounding of the stored numbers.
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, and counted below
            total = np.sum(influence.values, axis=1, dtype=np.float64).astype(influence.values.dtype)
        rows += self._rows("sum", -total, mislabeled, run, curves)
        return tidy(rows, tables={"inspection": _joined(curves)} if curves else None)

    def _rows(
        self, rule: str, suspicion: NDArray[Any], flags: NDArray[np.bool_], run: Run, curves: list[pd.DataFrame]
    ) -> list[Measured]:
        """The rows of one rule; its curve is added to ``curves``."""
        problem = _degenerate(suspicion)
        share = f"{int(flags.sum())} of {len(flags)} training instances mislabeled"
        interval_of = f"n: training instances; 95% CI: stratified bootstrap over training instances x{self.n_boot}"
        protocol = sentences(RULES[rule], share, interval_of)
        if problem:
            return unavailable(names(rule), problem[0], problem[1], protocol)
        rng, shares = run.rng("training instances"), (self.share, *CURVE)
        found = resampled(np.asarray(suspicion, dtype=np.float64), flags, self.n_boot, rng, shares)
        curves.append(_curve(BANDS[rule], found.found[:, 1:]))
        return [
            _measured(name, samples, random, flags, sentences(said, protocol))
            for name, (samples, random, said) in zip(names(rule), self._measures(found, flags), strict=True)
        ]

    def _measures(self, found: Detection, flags: NDArray[np.bool_]) -> list[tuple[FloatArray, float, str]]:
        """Samples, chance and what the protocol adds, in the order of ``KINDS``."""
        flips, chance = float(flags.mean()), chance_ap(len(flags), int(flags.sum()))
        return [
            (found.auroc, 0.5, ""),
            (moved(found.average_precision), chance, ""),
            (found.recall, flips, f"the {int(flags.sum())} most suspect inspected"),
            (found.area, 0.5, f"area under share found over share inspected; at most {1 - flips / 2:.4f}"),
            (found.found[:, 0], self.share, f"share of flips among the {self.share:g} most suspect"),
        ]


def _measured(name: str, samples: FloatArray, random: float, flags: NDArray[np.bool_], protocol: str) -> Measured:
    low, high, none = stratified_interval(samples, flags, "mislabeled")
    note = sentences(f"random ranking: {random:.4f}", none)
    return Measured(
        metric=name, value=float(samples[0]), ci_low=low, ci_high=high, n=len(flags), protocol=protocol, note=note
    )


def _curve(series: str, found: FloatArray) -> pd.DataFrame:
    """The inspection curve; ``found`` (1 + n_boot, points) begins with the data itself."""
    import pandas as pd

    low, high = np.quantile(found[1:], [0.025, 0.975], axis=0)
    columns = {"inspected": CURVE, "found": found[0], "ci_low": low, "ci_high": high}
    return pd.DataFrame({"series": series, **columns})


def _joined(curves: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(curves, ignore_index=True)


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
