"""Which spread of computed numbers is rounding alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def constant_columns(values: NDArray[Any], dtype: type[np.floating[Any]] | None = None) -> NDArray[np.bool_]:
    """``(m,)`` columns of ``values`` (n, m) whose spread is no more than the rounding of their dtype, or of another."""
    low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    unit = rounding(np.dtype(dtype or values.dtype))
    with np.errstate(invalid="ignore"):  # infinite values are no constant; they are counted as not finite
        return np.asarray(high - low <= unit * np.maximum(np.abs(low), np.abs(high)))


def rounding(dtype: np.dtype[Any]) -> float:
    """Relative difference below which two computed numbers of a dtype are taken to be equal."""
    return 8.0 * float(np.finfo(dtype).eps) if np.issubdtype(dtype, np.floating) else 0.0
