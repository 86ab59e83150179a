"""From a column of labels to a task: class indices with their names, or regression targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import DataError
from influx.problem import TaskName

TASKS = ("auto", "classification", "regression")
WHOLE_NUMBER_CLASSES = 20  # task=auto: up to this many different whole numbers are read as classes


@dataclass(frozen=True, kw_only=True)
class Labels:
    """``y`` (n,): int64 indices into ``classes``, or float64 targets (``classes`` empty)."""

    task: TaskName
    y: NDArray[Any]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_labels(values: NDArray[Any], task: str, where: str) -> Labels:
    """Decide the task and encode the labels.

    Args:
        values: (n,) text, booleans, whole numbers or floats.
        task: ``auto``, ``classification`` or ``regression``.
        where: what the messages call the labels, for example ``label column 'y' of iris.csv``.

    Raises:
        DataError: a label is missing or infinite, all are equal, or text is to be regressed.
    """
    numeric = values.dtype.kind in "iufb"
    if numeric:
        _refuse_non_finite(values, where)
    different = np.unique(values)
    if len(different) < 2:
        only = f"{_text(different[0])!r} only" if len(different) else "nothing"
        raise DataError(f"expected at least two different values in the {where}, found {only}; choose another label")
    if task == "regression" or (task == "auto" and numeric and not _looks_like_classes(different)):
        if not numeric:
            raise DataError(f"dataset.task=regression needs numbers, but the {where} holds text; set dataset.task=auto")
        notes = (
            () if task != "auto" else ("Read as regression: the label holds numbers that do not look like classes.",)
        )
        return Labels(task="regression", y=values.astype(np.float64), classes=(), notes=notes)
    y = np.searchsorted(different, values).astype(np.int64)
    notes = (f"Read as classification with {len(different)} classes.",) if task == "auto" else ()
    return Labels(task="classification", y=y, classes=tuple(_text(v) for v in different), notes=notes)


def _looks_like_classes(different: NDArray[Any]) -> bool:
    if different.dtype.kind == "b":
        return True
    return len(different) <= WHOLE_NUMBER_CLASSES and bool(np.all(different == np.round(different)))


def _refuse_non_finite(values: NDArray[Any], where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"row {bad[0] + 1} of the {where} is {values[bad[0]]}; every label must be a finite number")


def _text(value: Any) -> str:
    """The label as people wrote it: 3 for the float 3.0."""
    if isinstance(value, np.floating) and value == np.round(value):
        return str(int(value))
    return str(value)
