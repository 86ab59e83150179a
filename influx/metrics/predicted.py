"""What an estimator predicts of models trained on subsets, and what they do: kept so that estimators can be paired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from influx.metrics.statistics import FloatArray

if TYPE_CHECKING:
    import pandas as pd

TABLE = "lds_subsets"  # of a run's metrics
HALVES = ("predicted", "observed")
COLUMNS = ("estimator", "subset", "test_id", *HALVES)
MOST = 2_000_000  # predictions of an estimator that are kept
FILE_BYTES, HELD_BYTES = 16.0, 320.0  # of each, in the file and while the tables of five estimators are joined
TOO_MANY = "too many predictions to keep"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """K subsets and m test instances.

    Attributes:
        predicted: ``(K, m)`` summed influence of a subset's members; one number down a column of constant scores.
        observed: ``(K, m)`` what models trained on the subset made of the test instance, mean over seeds, more is
            better.
        test_ids: ``(m,)`` ids of the test instances.
    """

    predicted: FloatArray
    observed: FloatArray
    test_ids: NDArray[np.int64]

    @classmethod
    def read(cls, table: pd.DataFrame) -> Predicted:
        """From the rows of one estimator, in the order of subsets and ids.

        Raises:
            ValueError: they are not one row of numbers per subset and test instance.
        """
        numbers = all(table[name].dtype.kind == "f" for name in HALVES)
        wide = table.pivot(index="subset", columns="test_id", values=list(HALVES))
        if not numbers or not len(table) or wide.size != 2 * len(table):
            raise ValueError("expected one row of numbers per subset and test instance")
        both = [wide[name] for name in HALVES]
        predicted, observed = (half.to_numpy(dtype=np.float64) for half in both)
        return cls(predicted=predicted, observed=observed, test_ids=both[0].columns.to_numpy())

    def tables(self) -> dict[str, pd.DataFrame]:
        """``TABLE`` with a row per subset and test instance, or nothing where there would be more than ``MOST``."""
        import pandas as pd

        if self.predicted.size != kept(self.predicted.size):
            return {}
        count, tests = self.predicted.shape
        columns = {
            "subset": np.repeat(np.arange(count, dtype=np.int32), tests),
            "test_id": np.tile(self.test_ids, count),
            "predicted": self.predicted.ravel(),
            "observed": self.observed.ravel(),
        }
        return {TABLE: pd.DataFrame(columns)}

    @property
    def note(self) -> str:
        """Why there is no table, or nothing."""
        count, tests = self.predicted.shape
        if count * tests == kept(count * tests):
            return ""
        return f"{TOO_MANY} for paired differences ({count} subsets x {tests} test instances, at most {MOST:,})"


def kept(predictions: int) -> int:
    """How many of an estimator's predictions are kept: all or none."""
    return predictions if predictions <= MOST else 0
