"""Values of players that are no training instances: what they divide, and what they say of pairs of instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx.engines.games import Array
from influx.engines.players import TABLE_ROWS
from influx.errors import ConfigError
from influx.problem import Data, Outcomes, Split, TaskName

if TYPE_CHECKING:
    from influx.run import Run

Output = Literal["loss", "logit", "accuracy"]
NOTE = "the values are products of explanations of one trained model; they do not say what training without i changes"
COLUMNS_BYTES = 64 << 20  # values of all coalitions that are held together


def check_output(output: str, data: Data | None = None) -> None:
    """Refuse an output that does not exist, or that these data do not have.

    Raises:
        ConfigError: naming the setting.
    """
    if output not in get_args(Output):
        raise ConfigError(f"estimator.output must be one of {', '.join(get_args(Output))}, got {output!r}; change it")
    if output == "accuracy" and data is not None and data.task != "classification":
        raise ConfigError("estimator.output=accuracy needs classes, and this is regression; use estimator.output=loss")


def worth(outcomes: Outcomes, y: NDArray[Any], output: Output, task: TaskName) -> Array:
    """What the players of a game divide: minus the loss, the logit of the label, or whether the prediction is right.

    The logit is log p_y / (1 - p_y), and the prediction for regression.
    """
    if output == "loss":
        return -np.asarray(outcomes.loss, dtype=np.float64)
    if output == "accuracy":
        return np.asarray(outcomes.prediction == y, dtype=np.float64)
    return np.asarray(outcomes.margin if task == "classification" else outcomes.prediction, dtype=np.float64)


def parts(split: Split, rows: int) -> Iterator[Split]:
    """A split in pieces of which ``rows`` numbers per instance fit in memory."""
    size = max(COLUMNS_BYTES // (8 * rows), 1)
    for start in range(0, len(split), size):
        yield split.take(slice(start, start + size))


def held(instances: int, rows: int) -> float:
    """Bytes at once of ``rows`` numbers per instance, with copies, when they come in ``parts``."""
    return 3.0 * max(min(8.0 * rows * instances, COLUMNS_BYTES), 8.0 * rows)


def products(run: Run, train: Array, test: Array) -> NDArray[np.float64]:
    """``(n_train, n_test)`` Σ_f φ_f(i) φ_f(j) of values of players (players, n) and (players, m)."""
    return np.matmul(train.T, test, out=run.zeros())


def by_test(
    name: str, labels: Mapping[str, Any], values: Array, stderr: Array, test_ids: NDArray[np.int64]
) -> dict[str, pd.DataFrame]:
    """Table ``name`` with a row per test instance and player of ``values`` (players, m); none above ``TABLE_ROWS``."""
    players, m = values.shape
    if values.size > TABLE_ROWS:
        return {}
    repeated = {column: np.tile(np.asarray(entries), m) for column, entries in labels.items()}
    numbers = {"value": values.T.ravel(), "stderr": stderr.T.ravel()}
    return {name: pd.DataFrame({"test_id": np.repeat(test_ids, players), **repeated, **numbers})}
