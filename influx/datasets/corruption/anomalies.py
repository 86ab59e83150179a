"""What corruptions of test instances share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import IncompatibleError
from influx.problem import Data


def need_numbers(data: Data, who: str) -> None:
    """Refuse tokens (``IncompatibleError``) for the corruption ``who``."""
    if not np.issubdtype(data.test.x.dtype, np.floating):
        raise IncompatibleError(
            f"corruption={who} changes numbers, but the features of {data.name} are whole numbers; set "
            "corruption=anomaly_class"
        )


def with_anomalies(data: Data, found: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The test flags with the instances ``found`` (n_test,) among the anomalies."""
    before = data.test_flags.get("anomaly")
    return {**data.test_flags, "anomaly": found if before is None else found | np.asarray(before).astype(bool)}
