"""When training instances were influential: what every point of the training contributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx.problem import Split

Rows = slice | NDArray[np.int64]  # the latter without repetition
NUMBERS = 1 << 22  # kept at most; with more, neighbouring points of the training are summed
FEWEST = 4  # points that are kept whatever the number of instances
TOP = 5  # proponents and opponents whose curves are kept for a test instance


class Curves:
    """Collects contributions block by block, in any order, and makes the table ``curves`` of them.

    For every training instance it keeps the mean over test instances and the influence on itself, and for the first
    ``tests`` test instances whole columns, of which the table shows the strongest proponents and opponents.
    """

    def __init__(self, train: Split, test: Split, steps: Sequence[int], tests: int):
        """``steps`` are the points of the training that will contribute, in order."""
        self._train, self._test = train, test
        self._tests = min(tests, len(test))
        kept = min(len(steps), max(NUMBERS // (len(train) * (2 + self._tests)), FEWEST))
        self._slot = {step: i * kept // len(steps) for i, step in enumerate(steps)}
        self._steps = np.array([next(s for s in steps if self._slot[s] == slot) for slot in range(kept)])
        self._mean = np.zeros((kept, len(train)))
        self._own, self._has_own = np.zeros((kept, len(train))), False
        self._columns = np.zeros((kept, len(train), self._tests))

    def add(self, step: int, rows: Rows, columns: slice, influence: NDArray[Any], weight: float = 1.0) -> None:
        """``weight`` times ``(b, m)`` is what ``step`` adds to the influence of ``rows`` on test ``columns``."""
        slot = self._slot[step]
        self._mean[slot, rows] += weight / len(self._test) * influence.sum(1)
        shown = slice(columns.start, min(columns.stop, self._tests))
        if shown.start < shown.stop:
            self._columns[slot, rows, shown] += weight * influence[:, : shown.stop - shown.start]

    def add_own(self, step: int, rows: Rows, influence: NDArray[Any]) -> None:
        """``(b,)`` is what ``step`` adds to the influence of ``rows`` on themselves."""
        self._own[self._slot[step], rows] += influence
        self._has_own = True

    def table(self) -> pd.DataFrame:
        """Columns step, train_id, test_id, influence, self_influence.

        A row without ``test_id`` holds the mean over all test instances, and it alone has ``self_influence``. A step
        contributes what lies between it and the next one in the table; contributions add up to the influence.
        """
        points, n = self._mean.shape
        nothing = np.full((points, 1), np.nan)
        parts = [self._part(np.arange(n), None, self._mean, self._own if self._has_own else nothing)]
        for column in range(self._tests):
            curves = self._columns[:, :, column]
            order = np.argsort(-curves.sum(0), kind="stable")
            rows = np.unique(np.concatenate([order[:TOP], order[-TOP:]]))
            parts.append(self._part(rows, int(self._test.ids[column]), curves[:, rows], nothing))
        missing = np.concatenate([part.pop("missing") for part in parts], axis=None)
        joined: dict[str, Any] = {  # one column after the other: copied once, into place
            name: np.concatenate([part.pop(name) for part in parts], axis=None) for name in list(parts[0])
        }
        joined["test_id"] = pd.arrays.IntegerArray(joined["test_id"], missing)
        return pd.DataFrame(joined, copy=False)

    def _part(
        self, rows: NDArray[np.int64], test_id: int | None, curves: NDArray[np.float64], own: NDArray[np.float64]
    ) -> dict[str, NDArray[Any]]:
        """Columns of the table, all of the shape of ``curves`` (points, rows), and which test ids are missing."""
        columns = {
            "step": self._steps[:, None],
            "train_id": self._train.ids[rows],
            "test_id": np.array(test_id or 0),
            "influence": curves,
            "self_influence": own,
            "missing": np.array(test_id is None),
        }
        return {name: np.broadcast_to(column, curves.shape) for name, column in columns.items()}
