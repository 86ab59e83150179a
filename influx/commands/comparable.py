"""Which runs can be paired, and on what: two matrices of each, the columns of one against those of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influx.metrics.predicted import COLUMNS, TABLE, TOO_MANY, Predicted
from influx.metrics.row_samples import row_counts
from influx.metrics.statistics import FloatArray, counts_of, resample
from influx.reporting import metric_tables, reading
from influx.streams import stream

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

Sides = tuple[NDArray[Any], NDArray[Any]]
MIN_ROWS = 3
BLOCK = 1 << 22  # numbers of a matrix that are held at a time
HELD = 1 << 25  # numbers of predictions and outcomes that are held, of all runs together
SAME_TRUTH = 1e-3  # relative; two machines round differently
EARLIER = "no predictions per subset were saved; run again with overwrite=true"


@dataclass(frozen=True, kw_only=True)
class Comparable:
    """What runs are judged on.

    Attributes:
        reasons: per run, why it takes no part, or "".
        sides: scores and truth, (n, m) each, of the run at a place, which takes part.
        rows: those of the n that are compared.
        counts: ``(n_boot, len(rows))`` how often a row is in a resample; None where rows are all there are.
        over: what is resampled.
        lack: why those that could take part have nothing to be judged on, or "".
    """

    reasons: tuple[str, ...]
    sides: Callable[[int], Sides]
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    counts: FloatArray | None = None
    over: str = "test instances"
    lack: str = ""

    @property
    def usable(self) -> list[int]:
        """Places of the runs that take part."""
        return [i for i, reason in enumerate(self.reasons) if not reason]


def on_training_instances(records: Sequence[RunRecord], n_boot: int) -> Comparable:
    """Influence against ground truth, on the training instances for which all runs have both."""
    first = next((record for record in records if record.truth is not None), None)
    reasons = tuple("" if first is record else _other_truth(record, first) for record in records)

    def sides(place: int) -> Sides:
        truth = records[place].truth
        assert truth is not None
        return records[place].influence, truth

    found = Comparable(reasons=reasons, sides=sides)
    if len(found.usable) < 2:
        return found
    shared = np.logical_and.reduce([_computed(records[i]) for i in found.usable])
    rows = np.flatnonzero(shared)
    if len(rows) < MIN_ROWS:
        lack = f"{len(rows)} training instances have a truth and every score, {MIN_ROWS} are needed"
        return replace(found, lack=lack)
    rows = rows[np.argsort(records[found.usable[0]].train["id"].to_numpy()[rows], kind="stable")]  # ties go by id
    counts = row_counts(stream(0, "compare/training instances"), len(rows), len(shared), n_boot)
    return replace(found, rows=rows, counts=counts, over=found.over if counts is None else f"training and {found.over}")


def on_subsets(records: Sequence[RunRecord], n_boot: int) -> Comparable:
    """Summed influence against what models trained on subsets do, on the subsets of the metric ``lds``."""
    first = next((record for record in records if _keeps(record)), None)
    read = _Reader()
    its = read(first) if first else None
    reasons = tuple("" if first is record else _other_outcomes(record, first, its, read) for record in records)

    def sides(place: int) -> Sides:
        found = read(records[place])
        return found.predicted, found.observed

    return _over_subsets(reasons, sides, its, n_boot)


def of_predictions(predicted: Sequence[Predicted], n_boot: int) -> Comparable:
    """The same of predictions at hand, for the same subsets, outcomes and test instances."""

    def sides(place: int) -> Sides:
        return predicted[place].predicted, predicted[place].observed

    return _over_subsets(("",) * len(predicted), sides, predicted[0], n_boot)


def _over_subsets(
    reasons: tuple[str, ...], sides: Callable[[int], Sides], its: Predicted | None, n_boot: int
) -> Comparable:
    found = Comparable(reasons=reasons, sides=sides, over="subsets and test instances")
    if its is None:
        return found
    count = len(its.observed)
    drawn = resample(stream(0, "compare/subsets"), count, n_boot)
    return replace(found, rows=np.arange(count), counts=counts_of(drawn))


def _computed(record: RunRecord) -> NDArray[np.bool_]:
    """``(n_train,)`` training instances with a truth and a score."""
    found = np.zeros(len(record.influence), dtype=bool)
    rows = record.truth_rows
    block = max(1, BLOCK // max(1, record.influence.shape[1]))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        found[part] = ~np.isnan(record.influence[part]).all(axis=1)
    return found


def _other_truth(record: RunRecord, first: RunRecord | None) -> str:
    """Why a run cannot be paired with the first that has a truth, or ""."""
    if record.truth is None or first is None or first.truth is None:
        return "no ground truth"
    for axis, one, other in (("training", record.train, first.train), ("test", record.test, first.test)):
        if one["id"].tolist() != other["id"].tolist():
            return f"other {axis} instances than {first.name}"
    if not np.array_equal(record.truth_rows, first.truth_rows):
        return f"ground truth on other training instances than {first.name}"
    rows = first.truth_rows[np.linspace(0, len(first.truth_rows) - 1, min(len(first.truth_rows), 200)).astype(int)]
    return "" if _alike(record.truth[rows], first.truth[rows]) else f"another ground truth than {first.name}"


def _other_outcomes(record: RunRecord, first: RunRecord | None, its: Predicted | None, read: _Reader) -> str:
    """Why a run cannot be paired with the first that has kept its predictions, or ""."""
    if not _keeps(record) or first is None or its is None:
        notes = [str(row["note"]) for row in record.metric_rows if row["metric"] == "lds"]
        return TOO_MANY if any(TOO_MANY in note for note in notes) else EARLIER
    own = read(record)
    if not np.array_equal(own.test_ids, its.test_ids):
        return f"other test instances than {first.name}"
    if len(own.observed) != len(its.observed) or not _alike(own.observed, its.observed):
        return f"outcomes of other retrained models than {first.name}: another bank"
    return ""


def _alike(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    """Whether two truths are one, up to rounding."""
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    size = float(np.abs(other[np.isfinite(other)]).max(initial=0.0))
    return np.allclose(one, other, rtol=SAME_TRUTH, atol=SAME_TRUTH * size, equal_nan=True)


def _keeps(record: RunRecord) -> bool:
    return TABLE in metric_tables.names(record)


class _Reader:
    """What runs have kept of their own estimators. Each is read once while there is room to hold it."""

    def __init__(self) -> None:
        self._held: dict[int, Predicted] = {}
        self._room = HELD

    def __call__(self, record: RunRecord) -> Predicted:
        """Those of one run.

        Raises:
            DataError: the file is damaged.
        """
        if id(record) in self._held:
            return self._held[id(record)]
        path = metric_tables.path(record, TABLE)
        table = reading.read_parquet(path, COLUMNS, [("estimator", "in", [record.estimator])])
        with reading.reading(path):
            found = Predicted.read(table)
        if 2 * found.observed.size <= self._room:
            self._room -= 2 * found.observed.size
            self._held[id(record)] = found
        return found
