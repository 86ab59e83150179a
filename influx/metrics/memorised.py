"""Are instances that a model is known to memorise, or need not, told by their influence on themselves?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import generation
from influx.influence import Influence
from influx.metrics.aligned import Unavailable
from influx.metrics.detection import chance_ap, held, moved, resampled, stratified_counts, stratified_interval
from influx.metrics.statistics import FloatArray, check_resamples, constant_columns, interval
from influx.metrics.tidy import Measured, sentences, tidy, unavailable
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

HIGH = {"mislabeled": 1, "rare": 1, "foreign": 1, "duplicated": -1}  # kind -> 1 where high self-influence is suspect
MEASURES = ("auroc", "ap", "ratio", "by_risk", "by_distance", "gain_risk", "gain_distance")
CURVE = tuple(step / 20 for step in range(21))  # shares inspected at which the curve is kept
Scores = Mapping[str, FloatArray | Unavailable]


def names(kind: str) -> list[str]:
    """Names of the rows of one kind of instances."""
    return [f"memorised_{measure}_{kind}" for measure in MEASURES]


@dataclass(frozen=True, kw_only=True)
class Memorised:
    """Detection of rare, mislabeled, foreign and duplicated training instances by self-influence.

    Measures: per kind that a corruption put there, against the instances of no kind: AUROC (``memorised_auroc_<kind>``)
        and average precision (``ap``) of ranking by self-influence, high first; for duplicates low first: what remains
        of a pair makes up for the one that is removed, so that they are memorised less. Of equal instances only the one
        that was copied is asked about, since copies say nothing new. ``ratio``: mean self-influence of the kind over
        that of the others. ``by_risk``: AUROC by the training risk, ``by_distance``: by the distance to the nearest
        other training instance, in the same direction; they are the same for all estimators. ``gain_risk`` and
        ``gain_distance``: AUROC by self-influence minus that. Labels are seen by models of labels and by conditional
        density models alone. The curve is the table memorised.
    Not applicable: no such corruption; estimators without self-influence; distance on text.
    Degenerate: scores that are constant or not finite; the ratio where the others' mean is not above 0 in every
        resample.
    Intervals: 95% percentile bootstrap over training instances, the kind and the others resampled apart, the same
        resamples for all scores; none from fewer than 5 of a group. Average precision in resamples is moved by its mean
        difference from the data.
    Cost: n²·d for distances, n_boot·n per kind.
    Source: Kong & Chaudhuri 2021, arXiv:2105.14203, section 4; Feldman & Zhang 2020, arXiv:2008.03703.

    Attributes:
        n_boot: resamples.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()

    n_boot: int = 1000

    def __post_init__(self) -> None:
        """Check ranges."""
        check_resamples("metric.memorised.n_boot", self.n_boot)

    def plan(self, prospect: Prospect) -> Work:
        """Distances and resamples of every kind."""
        n, d = len(prospect.train), int(np.prod(prospect.train.x.shape[1:]))
        kinds = max(len(kinds_of(prospect.problem.data.flags, prospect.train.ids)), 1)
        return Work(
            flops=2.0 * n * n * d,
            numbers=float(n * n) + 100.0 * kinds * self.n_boot * n,
            compared=3.0 * kinds * n * float(np.log2(max(n, 2))),
            bytes=16.0 * n * d + held(n, self.n_boot),
            formula=f"{n} x {n} distances, {kinds} kinds x 3 scores x {self.n_boot} x {n} resampled ranks",
        )

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """Seven rows per kind, and the curves."""
        kinds = kinds_of(run.problem.data.flags, run.train.ids)
        lacking = [name for kind in HIGH if kind not in kinds for name in names(kind)]
        if not kinds:
            reason = "no training instance is known to be of such a kind; set for example corruption=memorable"
            return tidy(unavailable(lacking, "not applicable", reason))
        several = np.sum([flags for flags in kinds.values()], axis=0) > 1
        copies = np.asarray(run.problem.data.flags.get("duplicate", np.zeros(len(several)))).astype(bool)
        others, scores = ~(np.any([*kinds.values()], axis=0) | copies), self._scores(influence, run)
        rows: list[Measured] = []
        curves: list[pd.DataFrame] = []
        for kind, flags in kinds.items():
            rows += self._rows(kind, flags & ~(several | copies), others, int(several.sum()), scores, run, curves)
        return tidy(rows, tables={"memorised": _joined(curves)} if curves else None)

    def _scores(self, influence: Influence, run: Run) -> Scores:
        """``(n,)`` of every method."""
        own: FloatArray | Unavailable
        if influence.self_influence is None or influence.self_influence_note:
            note = influence.self_influence_note or "this estimator gives no self-influence"
            own = Unavailable(status="not applicable", note=note)
        else:
            own = _usable(influence.self_influence)
        distance: FloatArray | Unavailable = Unavailable(status="not applicable", note="tokens have no distances")
        if run.problem.data.kind != "text":
            distance = _usable(generation.apart(run.train))
        return {"self": own, "risk": _usable(run.outcomes(run.train).loss), "distance": distance}

    def _rows(
        self,
        kind: str,
        flags: NDArray[np.bool_],
        others: NDArray[np.bool_],
        several: int,
        scores: Scores,
        run: Run,
        curves: list[pd.DataFrame],
    ) -> Iterator[Measured]:
        """The rows of one kind; its curve is added to ``curves``."""
        asked, sign = flags | others, HIGH[kind]
        protocol = sentences(
            f"{int(flags.sum())} {kind} against {int(others.sum())} of no kind",
            f"{several} of several kinds left out" if several else "",
            f"n: training instances; 95% CI: stratified bootstrap over training instances x{self.n_boot}",
        )
        flags = flags[asked]
        if not flags.any() or flags.all():
            reason = f"no instance is {kind} alone" if not flags.any() else "no instance is of no kind"
            yield from unavailable(names(kind), "not applicable", reason, protocol)
            return
        given = {name: s[asked] for name, s in scores.items() if not isinstance(s, Unavailable)}
        found = {
            name: resampled(sign * score, flags, self.n_boot, run.rng(f"training instances, {kind}"), CURVE)
            for name, score in given.items()
        }
        if "self" in found:
            curves.append(_curve(kind, found["self"].found))
        first = "high" if sign > 0 else "low"
        samples: dict[str, tuple[FloatArray, str, str]] = {}
        for name, detection in found.items():
            told = {"self": "self-influence", "risk": "risk", "distance": "distance to the nearest instance"}[name]
            random = f"random ranking: {0.5:.4f}"
            samples["auroc" if name == "self" else f"by_{name}"] = detection.auroc, f"suspect: {first} {told}", random
            if name == "self":
                chance = f"random ranking: {chance_ap(len(flags), int(flags.sum())):.4f}"
                samples["ap"] = moved(detection.average_precision), f"suspect: {first} {told}", chance
                ratio = self._ratio(given[name], flags, kind, run)
                samples["ratio"] = ratio, f"mean {told} over that of the others", ""
            elif "self" in found:
                said = f"AUROC by self-influence minus AUROC by {told}"
                samples[f"gain_{name}"] = found["self"].auroc - detection.auroc, said, ""
        lacking = next((s for s in scores.values() if isinstance(s, Unavailable)), None)
        for measure in MEASURES:
            name = f"memorised_{measure}_{kind}"
            if measure == "ratio" and measure in samples and not np.isfinite(samples[measure][0]).all():
                reason = "the mean self-influence of the others is not above 0 in every resample"
                yield unavailable([name], "degenerate", reason, protocol)[0]
            elif measure in samples:
                yield _measured(name, *samples[measure], flags, kind, protocol)
            else:
                score = scores[measure.rpartition("_")[2] if measure.startswith("by_") else "self"]
                why = score if isinstance(score, Unavailable) else lacking
                assert why is not None
                yield unavailable([name], why.status, why.note, protocol)[0]

    def _ratio(self, own: FloatArray, flags: NDArray[np.bool_], kind: str, run: Run) -> FloatArray:
        """``(1 + n_boot,)`` mean of the kind over mean of the others, NaN where that is not above 0."""
        counts = stratified_counts(flags, self.n_boot, run.rng(f"training instances, {kind}"))
        counts = np.concatenate([np.ones((1, len(flags))), counts])
        mine, theirs = ((counts[:, g] @ own[g]) / counts[:, g].sum(axis=1) for g in (flags, ~flags))
        return np.asarray(mine / np.where(theirs > 0, theirs, np.nan))


def kinds_of(flags: Mapping[str, NDArray[Any]], ids: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """``(n,)`` which training instances are of each kind that there is; of equal ones that which was copied."""
    found = {kind: np.asarray(flags[kind]).astype(bool) for kind in HIGH if kind in flags}
    if "duplicate_of" in flags:
        found["duplicated"] = np.isin(ids, flags["duplicate_of"])
    return {kind: where for kind, where in found.items() if where.any()}


def _usable(scores: NDArray[Any]) -> FloatArray | Unavailable:
    unknown = int((~np.isfinite(scores)).sum())
    if unknown:
        return Unavailable(
            status="degenerate", note=f"{unknown} of {len(scores)} training instances have no finite score"
        )
    if constant_columns(scores.reshape(-1, 1))[0]:
        return Unavailable(status="degenerate", note="all training instances have the same score")
    return np.asarray(scores, dtype=np.float64)


def _measured(
    metric: str, samples: FloatArray, told: str, note: str, flags: NDArray[np.bool_], kind: str, protocol: str
) -> Measured:
    low, high, none = stratified_interval(samples, flags, kind)
    return Measured(
        metric=metric,
        value=float(samples[0]),
        ci_low=low,
        ci_high=high,
        n=len(flags),
        protocol=sentences(told, protocol),
        note=sentences(note, none),
    )


def _curve(kind: str, found: FloatArray) -> pd.DataFrame:
    """Share of the kind found over share inspected; ``found`` (1 + n_boot, points) begins with the data itself."""
    import pandas as pd

    ends = [interval(column) for column in found[1:].T]
    low, high = zip(*ends, strict=True)
    return pd.DataFrame({"series": kind, "inspected": CURVE, "found": found[0], "ci_low": low, "ci_high": high})


def _joined(curves: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(curves, ignore_index=True)
