"""How many and which training instances a corruption touches, and which class it is about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError, IncompatibleError, did_you_mean
from influx.problem import Data
from influx.streams import stream


def choose(
    candidates: NDArray[np.int64], fraction: float, seed: int, purpose: str, setting: str = "", kind: str = "training"
) -> NDArray[np.int64]:
    """``round(fraction * len(candidates))`` of the candidate rows, drawn without replacement, in increasing order.

    ``setting`` is what asked for the fraction, corruption.fraction unless given; ``kind`` of instances: training or
    test.

    Raises:
        ConfigError: the fraction selects no instance.
    """
    count = round(fraction * len(candidates))
    if count == 0:
        raise ConfigError(
            f"{setting or f'corruption.fraction={fraction}'} selects none of {len(candidates)} {kind} instances; "
            "take a larger share or more instances, or set corruption=none"
        )
    return np.sort(stream(seed, f"corruption/{purpose}").choice(candidates, count, replace=False))


def marked(n: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Boolean (n,), true on the rows."""
    flags = np.zeros(n, np.bool_)
    flags[rows] = True
    return flags


def need_classes(data: Data, who: str) -> None:
    """Refuse a regression (``IncompatibleError``) for the corruption ``who``."""
    if data.task != "classification":
        raise IncompatibleError(
            f"corruption={who} needs classes, but {data.name} is a regression; set corruption=none or duplicates"
        )


def class_index(data: Data, name: str | int | None) -> int:
    """Index of the class that ``corruption.target_class`` names; the first for None.

    Raises:
        ConfigError: there is no such class.
    """
    if name is None:
        return 0
    wanted = str(name)
    if wanted not in data.classes:
        raise ConfigError(
            f"{data.name} has no class {wanted!r}{did_you_mean(wanted, data.classes)}; set corruption.target_class to "
            f"one of: {', '.join(data.classes[:10])}{', ...' if len(data.classes) > 10 else ''}"
        )
    return data.classes.index(wanted)
