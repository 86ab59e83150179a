"""Are anomalous test instances found, by influence on them and by what knows no influence?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import tails
from influx.engines.outliers import isolation_forest, neighbour_distance, reconstruction_error
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.aligned import Unavailable
from influx.metrics.detection import Detection, chance_ap, held, moved, resampled, stratified_interval
from influx.metrics.statistics import FloatArray, check_resamples, constant_columns
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.metrics.unfairness import wilson
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

SETTING = "metric.anomaly_detection"
SCORES = ("influence", "risk", "reconstruction", "forest", "neighbours")
ALARMS = ("anomaly_alarms", "anomaly_false_alarms")
NAMES = (
    *(f"anomaly_{kind}_{score}" for score in SCORES for kind in ("auroc", "ap")),
    *(f"anomaly_gain_{score}" for score in SCORES[1:]),
    *ALARMS,
)
CURVE = tuple(step / 20 for step in range(21))  # shares inspected at which the curve is kept
TABLE = "anomaly"  # of an estimator that scores test instances itself
Scores = Mapping[str, FloatArray | Unavailable]


@dataclass(frozen=True, kw_only=True)
class AnomalyDetection:
    """Detection of test instances that a corruption made anomalies of, by influence and by methods that know none.

    Measures: AUROC (``anomaly_auroc_<score>``) and average precision (``anomaly_ap_<score>``) of ranking test
        instances, the most suspicious first. Scores: influence (the ``suspicion`` in the estimator's table ``anomaly``,
        as of tracin_ad, otherwise the mean influence of training instances on it, suspicious in its ``tail``); risk (of
        the model itself, for density models minus the logarithm of the density or its bound); reconstruction (mean
        squared error, of models that reconstruct); forest (isolation forest of the features); neighbours (mean
        distance to the ``k`` nearest training instances). All but the first are the same for all estimators.
        ``anomaly_gain_<score>``: AUROC by influence minus that. With p-values in the table, ``anomaly_alarms`` is the
        share of anomalies and ``anomaly_false_alarms`` that of the others with p <= ``alpha``. The curve is the table
        anomalies.
    Intervals: 95%. Percentile bootstrap over test instances, anomalies and others resampled apart, the same resamples
        for all scores; none from fewer than 5 of a group. Average precision in resamples is moved by its mean
        difference from the data. Wilson's for alarms.
    Not applicable: no corruption with anomalies; forest and neighbours on text; reconstruction by models that make
        none; alarms of estimators without p-values, or with too few scores of reference for any p <= ``alpha``.
    Degenerate: scores that are constant or not finite; alarms where a test instance has no p-value.
    Cost: n·m for the mean, n·m·d for distances, trees·(n + m) for the forest, n_boot·m.
    Source: Thimonier et al. 2022, arXiv:2205.01362, section IV; isolation forest: Liu et al. 2008.

    Attributes:
        trees: of the isolation forest.
        k: neighbours.
        tail: upper, lower or two-sided (far from the median): which mean influence is suspicious, for estimators that
            give no suspicion themselves.
        alpha: level of the p-values.
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    trees: int = 300
    k: int = 5
    tail: tails.Tail = "upper"
    alpha: float = 0.05
    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples(f"{SETTING}.n_boot", self.n_boot)
        for name in ("trees", "k"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{SETTING}.{name} must be at least 1, got {getattr(self, name)}; raise it")
        if not 0 < self.alpha < 1:
            raise ConfigError(f"{SETTING}.alpha must be between 0 and 1, got {self.alpha}; 0.05 is the default")

    def plan(self, prospect: Prospect) -> Work:
        """The mean, distances, trees and resamples."""
        n, m = len(prospect.train), len(prospect.test)
        d = int(np.prod(prospect.train.x.shape[1:]))
        return Work(
            flops=2.0 * n * m * d,
            numbers=float(n * m) + 30.0 * len(SCORES) * self.n_boot * m,
            compared=20.0 * self.trees * (256 + m),
            bytes=16.0 * (n + m) * d + held(m, self.n_boot),
            formula=f"{len(SCORES)} scores x {self.n_boot} x {m} resampled ranks, {n} x {m} distances",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """The rows named in ``NAMES``, and the curve."""
        flags = run.problem.data.test_flags.get("anomaly")
        refusal = _unfit(flags)
        if flags is None or refusal:
            return tidy(unavailable(NAMES, "not applicable", refusal))
        anomaly = np.asarray(flags).astype(bool)
        scores = self._scores(influence, run)
        protocol = sentences(
            f"{int(anomaly.sum())} of {len(anomaly)} test instances are anomalies",
            "" if run.problem.data.task == "density" else "influence and risk know the test labels",
            f"n: test instances; 95% CI: stratified bootstrap over test instances x{self.n_boot}",
        )
        found = {
            name: resampled(score, anomaly, self.n_boot, run.rng("anomalies and others"), CURVE)
            for name, score in scores.items()
            if not isinstance(score, Unavailable)
        }
        said = self._said(influence)
        rows = [row for name in SCORES for row in self._rows(name, scores[name], found, anomaly, said, protocol)]
        rows += [self._gain(name, scores, found, anomaly, said, protocol) for name in SCORES[1:]]
        rows += self._alarms(influence, anomaly)
        return tidy(rows, tables={"anomalies": _curves(found)} if found else None)

    def _scores(self, influence: Influence, run: Run) -> Scores:
        """``(m,)`` suspicion by every method, high is suspicious."""
        lacking = "the model makes no reconstruction; model=vae does"
        error = reconstruction_error(run.fitted, run.test)
        found: dict[str, FloatArray | Unavailable] = {
            "influence": _by_influence(influence, self.tail),
            "risk": _usable(run.outcomes(run.test).loss),
            "reconstruction": Unavailable(status="not applicable", note=lacking) if error is None else _usable(error),
        }
        if run.problem.data.kind == "text":
            reason = Unavailable(status="not applicable", note="tokens have no distances")
            return found | {"forest": reason, "neighbours": reason}
        found["forest"] = _usable(isolation_forest(run.train, run.test, self.trees, run.rng("forest")))
        if self.k > len(run.train):
            note = f"{SETTING}.k={self.k} is more than the {len(run.train)} training instances; lower it"
            return found | {"neighbours": Unavailable(status="not applicable", note=note)}
        return found | {"neighbours": _usable(neighbour_distance(run.train, run.test, self.k))}

    def _rows(
        self,
        name: str,
        score: FloatArray | Unavailable,
        found: Mapping[str, Detection],
        anomaly: NDArray[np.bool_],
        said: Mapping[str, str],
        protocol: str,
    ) -> list[Measured]:
        names = [f"anomaly_{kind}_{name}" for kind in ("auroc", "ap")]
        protocol = sentences(f"suspect: {said[name]}", protocol)
        if isinstance(score, Unavailable):
            return unavailable(names, score.status, score.note, protocol)
        numbers = (found[name].auroc, moved(found[name].average_precision))
        chance = (0.5, chance_ap(len(anomaly), int(anomaly.sum())))
        return [
            _measured(metric, samples, anomaly, protocol, f"random ranking: {random:.4f}")
            for metric, samples, random in zip(names, numbers, chance, strict=True)
        ]

    def _gain(
        self,
        name: str,
        scores: Scores,
        found: Mapping[str, Detection],
        anomaly: NDArray[np.bool_],
        said: Mapping[str, str],
        protocol: str,
    ) -> Measured:
        metric = f"anomaly_gain_{name}"
        protocol = sentences(f"AUROC by {said['influence']} minus AUROC by {said[name]}", protocol)
        for score in (scores["influence"], scores[name]):
            if isinstance(score, Unavailable):
                return unavailable([metric], score.status, score.note, protocol)[0]
        return _measured(metric, found["influence"].auroc - found[name].auroc, anomaly, protocol, "")

    def _said(self, influence: Influence) -> dict[str, str]:
        own = _suspects(influence)
        tail = influence.report.get("tail", "own suspicion") if own else self.tail
        return {
            "influence": f"{'the score of the estimator' if own else 'mean influence'} on the test instance ({tail})",
            "risk": "high risk of the model",
            "reconstruction": "high reconstruction error of the model",
            "forest": f"isolation forest of {self.trees} trees",
            "neighbours": f"large mean distance to the {self.k} nearest training instances",
        }

    def _alarms(self, influence: Influence, anomaly: NDArray[np.bool_]) -> Iterator[Measured]:
        table = influence.tables.get(TABLE)
        if table is None or "p_value" not in table:
            yield from unavailable(ALARMS, "not applicable", "the estimator gives no p-values; tracin_ad does")
            return
        p_value, least = table["p_value"].to_numpy(), influence.report.get("least_p_value", 0.0)
        unknown = int(np.isnan(p_value).sum())
        if unknown:
            note = f"{unknown} of {len(p_value)} test instances have no p-value, since scores are not finite"
            yield from unavailable(ALARMS, "degenerate", note)
            return
        if least > self.alpha:
            note = f"no p-value can be below {least:.3g}: too few scores say what is usual; raise {SETTING}.alpha"
            yield from unavailable(ALARMS, "not applicable", note)
            return
        alarm = p_value <= self.alpha
        for metric, group, what in zip(ALARMS, (anomaly, ~anomaly), ("anomalies", "others"), strict=True):
            share, size = float(alarm[group].mean()), int(group.sum())
            low, high = wilson(share, size)
            yield Measured(
                metric=metric,
                value=share,
                ci_low=low,
                ci_high=high,
                n=size,
                protocol=f"share of {what} with p <= {self.alpha:g}; n: {what}; 95% CI: Wilson",
                note="" if group is anomaly else f"at most {self.alpha:g} of instances like the usual",
            )


def _suspects(influence: Influence) -> bool:
    """Whether the estimator scores test instances itself."""
    return TABLE in influence.tables and "suspicion" in influence.tables[TABLE]


def _by_influence(influence: Influence, tail: tails.Tail) -> FloatArray | Unavailable:
    """The estimator's own suspicion, or mean influence over the training instances with scores."""
    if _suspects(influence):
        return _usable(influence.tables[TABLE]["suspicion"].to_numpy())
    computed = influence.computed
    if not computed.any():
        return Unavailable(status="not applicable", note="no training instance has scores")
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and counted below
        mean = np.mean(influence.values, axis=0, where=computed[:, None], dtype=np.float64)
    usable = _usable(mean.astype(influence.values.dtype))  # spread is judged against the rounding of the stored numbers
    return usable if isinstance(usable, Unavailable) else tails.suspicion(usable, float(np.median(usable)), tail)


def _usable(scores: NDArray[Any]) -> FloatArray | Unavailable:
    unknown = int((~np.isfinite(scores)).sum())
    if unknown:
        note = f"{unknown} of {len(scores)} test instances have no finite score"
        return Unavailable(status="degenerate", note=note)
    if constant_columns(scores.reshape(-1, 1))[0]:
        return Unavailable(status="degenerate", note="all test instances have the same score")
    return np.asarray(scores, dtype=np.float64)


def _unfit(flags: NDArray[Any] | None) -> str:
    if flags is None:
        return (
            "no test instance is known to be an anomaly; set corruption=anomaly_class, anomaly_noise or anomaly_swaps"
        )
    if not np.any(flags):
        return "no test instance is an anomaly"
    return "all test instances are anomalies" if np.all(flags) else ""


def _measured(metric: str, samples: FloatArray, anomaly: NDArray[np.bool_], protocol: str, note: str) -> Measured:
    low, high, none = stratified_interval(samples, anomaly, "anomalies")
    return Measured(
        metric=metric,
        value=float(samples[0]),
        ci_low=low,
        ci_high=high,
        n=len(anomaly),
        protocol=protocol,
        note=sentences(note, none),
    )


def _curves(found: Mapping[str, Detection]) -> pd.DataFrame:
    """Share of anomalies found over share of test instances inspected."""
    import pandas as pd

    parts = []
    for name, detection in found.items():
        low, high = np.quantile(detection.found[1:], [0.025, 0.975], axis=0)
        columns = {"inspected": CURVE, "found": detection.found[0], "ci_low": low, "ci_high": high}
        parts.append(pd.DataFrame({"series": f"by {name}", **columns}))
    return pd.concat(parts, ignore_index=True)
