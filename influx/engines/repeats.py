"""The mean of influence found several times over, with its standard error and how alike the rankings are.

Nothing is kept of single repetitions: three matrices (n, m), however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from influx.errors import IncompatibleError
from influx.influence import Influence

if TYPE_CHECKING:
    from influx.run import Run

Array = NDArray[np.float64]
SAME_ROWS = "a mean needs the same ones each time; ask for all, or for those that you name"
BLOCK_BYTES = 32 << 20  # of a matrix at a time


@dataclass
class Repeats:
    """Running mean of repetitions (Welford 1962), and sums of their standardised ranks."""

    run: Run
    count: int = 0
    own: list[Array] = field(default_factory=list)
    note: str = ""  # on self-influence, of the last repetition
    rows: NDArray[np.bool_] | None = None  # with values, of the first repetition

    def __post_init__(self) -> None:
        """Accumulators, on disk where they are large."""
        self.mean, self._squares, self._ranks = self.run.zeros(), self.run.zeros(), self.run.zeros()

    def add(self, found: Influence) -> None:
        """One more repetition.

        Raises:
            IncompatibleError: it has values for other training instances than the first.
        """
        rows = found.computed
        self.rows = rows if self.rows is None else self.rows
        if not np.array_equal(rows, self.rows):
            raise IncompatibleError(
                f"repetition {self.count + 1} has values for {int(rows.sum())} training instances, of which "
                f"{int((rows & self.rows).sum())} had one before: {SAME_ROWS}"
            )
        self.count += 1
        n, m = self.mean.shape
        step = max(1, BLOCK_BYTES // (8 * m))
        for start in range(0, n, step):
            part = slice(start, start + step)
            values = np.asarray(found.values[part], dtype=np.float64)
            change = values - self.mean[part]
            self.mean[part] += change / self.count
            self._squares[part] += change * (values - self.mean[part])
        step = max(1, BLOCK_BYTES // (8 * n))
        for start in range(0, m, step):
            columns = slice(start, start + step)
            self._ranks[rows, columns] += _standardised(np.asarray(found.values[:, columns])[rows])
        self.note = found.self_influence_note
        if found.self_influence is not None:
            self.own.append(np.asarray(found.self_influence, dtype=np.float64))

    def stderr(self) -> Array:
        """Of the mean of two or more, from their spread. To be asked once: it takes the place of the squares."""
        np.sqrt(self._squares / (self.count * (self.count - 1)), out=self._squares)
        return self._squares

    @property
    def self_influence(self) -> Array | None:
        """``(n,)`` mean, where every repetition has one."""
        return np.mean(self.own, axis=0) if self.own and len(self.own) == self.count else None

    def stability(self) -> dict[str, Any]:
        """Mean Spearman correlation of two repetitions (of at least two), and by Spearman-Brown that of two such means.

        Over test instances; those with constant influence have none.
        """
        pairwise = self._pairwise()
        known = pairwise[np.isfinite(pairwise)]
        if not len(known):
            return {}
        raised = np.maximum(known, 0)
        of_mean = self.count * raised / (1 + (self.count - 1) * raised)
        return {"rank_stability": float(known.mean()), "rank_stability_of_mean": float(of_mean.mean())}

    def table(self) -> pd.DataFrame:
        """One row per test instance: ``size``, ``spread`` and rank correlation of two repetitions.

        Over training instances, ``size`` is the root mean square of the mean, ``spread`` that of the standard deviation
        between repetitions. To be asked before ``stderr``.
        """
        size, spread = (np.zeros(self.mean.shape[1]) for _ in range(2))
        rows = np.flatnonzero(self.rows) if self.rows is not None else np.arange(0)
        step = max(1, BLOCK_BYTES // (8 * self.mean.shape[1]))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            size += np.square(self.mean[part]).sum(axis=0)
            spread += self._squares[part].sum(axis=0) / (self.count - 1)
        return pd.DataFrame(
            {
                "test_id": self.run.test.ids,
                "size": np.sqrt(size / max(len(rows), 1)),
                "spread": np.sqrt(spread / max(len(rows), 1)),
                "rank_stability": self._pairwise(),
            }
        )

    def _pairwise(self) -> Array:
        """``(m,)`` mean Spearman correlation of two repetitions; NaN where influence is constant."""
        squares = np.array([float(np.square(self._ranks[:, j]).sum()) for j in range(self._ranks.shape[1])])
        return np.asarray((squares - self.count) / (self.count * (self.count - 1)))  # |Σ z|² = K + Σ of ordered pairs


def _standardised(values: NDArray[Any]) -> Array:
    """Ranks down each column with mean 0 and norm 1; NaN for a constant column."""
    centred = rankdata(values, axis=0) - (len(values) + 1) / 2
    norm = np.sqrt(np.square(centred).sum(axis=0))
    return np.asarray(centred / np.where(norm > 0, norm, np.nan))
