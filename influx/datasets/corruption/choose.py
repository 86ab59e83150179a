"""How many and which training instances a corruption touches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.streams import stream


def choose(candidates: NDArray[np.int64], fraction: float, seed: int, purpose: str) -> NDArray[np.int64]:
    """``round(fraction * len(candidates))`` of the candidate rows, drawn without replacement, in increasing order.

    Raises:
        ConfigError: the fraction selects no instance.
    """
    count = round(fraction * len(candidates))
    if count == 0:
        raise ConfigError(
            f"corruption.fraction={fraction} selects none of {len(candidates)} training instances; raise it, or set "
            f"corruption=none"
        )
    return np.sort(stream(seed, f"corruption/{purpose}").choice(candidates, count, replace=False))


def marked(n: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Boolean (n,), true on the rows."""
    flags = np.zeros(n, np.bool_)
    flags[rows] = True
    return flags
