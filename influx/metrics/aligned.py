"""Scores and ground truth on the same rows, with what is unusable about them counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.influence import Influence
from influx.metrics.statistics import FloatArray, constant_columns
from influx.metrics.tidy import Status, sentences
from influx.run import Run

MIN_ROWS = 3  # any two points correlate perfectly


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """Why there is nothing to compare."""

    status: Status
    note: str


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """``scores`` and ``truth`` (rows, m), restricted to those of ``n_train`` training instances that have both.

    Columns that are not finite in either are in ``broken`` (m,), those without spread in either in ``constant``.
    """

    scores: FloatArray
    truth: FloatArray
    broken: NDArray[np.bool_]
    constant: NDArray[np.bool_]
    protocol: str
    note: str
    n_train: int

    @property
    def usable(self) -> NDArray[np.bool_]:
        """``(m,)`` test instances for which a correlation is defined."""
        return ~(self.broken | self.constant)

    @property
    def partial(self) -> bool:
        """Only some of the training instances are compared."""
        return len(self.scores) < self.n_train

    @property
    def degenerate(self) -> str:
        """A sentence on the test instances that are left out, or nothing."""
        return left_out(self.broken, self.constant)


def left_out(broken: NDArray[np.bool_], constant: NDArray[np.bool_]) -> str:
    """A sentence on test instances without a defined value, or nothing."""
    unusable = int((broken | constant).sum())
    if not unusable:
        return ""
    kinds = {"not finite": int(broken.sum()), "constant": int((constant & ~broken).sum())}
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"{unusable} of {len(broken)} test instances degenerate and left out ({counts})"


def unscored(influence: Influence) -> Unavailable | None:
    """Why nothing can be summed or ranked over all training instances, where some were not computed.

    Values that were computed and are not finite are no such case: they make a number degenerate.
    """
    lacking = int((~influence.computed).sum())
    if not lacking:
        return None
    note = f"{lacking} of {len(influence.values)} training instances have no score: they were not computed"
    return Unavailable(status="not applicable", note=note)


def align(influence: Influence, run: Run) -> Aligned | Unavailable:
    """Pair an influence matrix with the ground truth of the run."""
    truth = run.truth
    if truth is None:
        return Unavailable(status="not applicable", note="no ground truth: truth=none")
    n_train, n_test = truth.values.shape
    rows = truth.computed & influence.computed
    lacking = int((truth.computed & ~influence.computed).sum())
    note = f"no score for {lacking} of {int(truth.computed.sum())} instances with ground truth" if lacking else ""
    if rows.sum() < MIN_ROWS:
        status: Status = "degenerate" if lacking else "not applicable"
        reason = f"a comparison needs {MIN_ROWS} training instances with score and truth, there are {int(rows.sum())}"
        return Unavailable(status=status, note=sentences(reason, note))
    scores, target = influence.values[rows], truth.values[rows]
    return Aligned(
        scores=np.asarray(scores, dtype=np.float64),
        truth=np.asarray(target, dtype=np.float64),
        broken=~(np.isfinite(scores).all(axis=0) & np.isfinite(target).all(axis=0)),
        constant=constant_columns(scores) | constant_columns(target),
        protocol=sentences(
            f"{int(rows.sum())} of {n_train} training instances, {n_test} test instances", describe(truth)
        ),
        note=note,
        n_train=n_train,
    )


def describe(truth: Influence) -> str:
    """How the ground truth was made, for the protocol."""
    stated = str(truth.report.get("protocol", ""))
    return sentences(f"truth: {stated}" if stated else "", f"truth seeds: {averaged_seeds(truth)}")


def averaged_seeds(truth: Influence) -> int:
    """How many seeds ``truth.values`` average. There may be more replicates, on some rows, for the ceiling alone."""
    return int(truth.report.get("seeds", max(1, len(truth.replicates))))
