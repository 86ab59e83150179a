"""Copies in the training split."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from influx.datasets.corruption.choose import choose, marked
from influx.datasets.settings import check_share
from influx.problem import Data, Split
from influx.streams import stream


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """A ``fraction`` of the training instances is replaced by exact copies of others; n_train stays.

    Sources are drawn among the instances that are kept, each at most once while there are enough. A copy sits in
    the row, and under the id, of the instance that it replaces. Flags, (n_train,) each: ``duplicate`` (bool, true
    for the copies) and ``duplicate_of`` (int64, the id of the source, -1 for all others).
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share("corruption.fraction", self.fraction)

    def apply(self, data: Data, seed: int) -> Data:
        """The data with copies, and the flags that say where."""
        n, ids = len(data.train), data.train.ids
        copies = choose(np.arange(n), min(self.fraction, 1 - 1 / n), seed, "duplicates/instances")
        kept = np.setdiff1d(np.arange(n), copies)
        repeat = len(copies) > len(kept)
        sources = stream(seed, "corruption/duplicates/sources").choice(kept, len(copies), replace=repeat)
        content = np.arange(n)  # row -> the row whose content it holds
        content[copies] = sources
        duplicate_of = np.full(n, -1, np.int64)
        duplicate_of[copies] = ids[sources]
        display = {part: v[content] if part == "train" else v for part, v in data.display.items()}
        # Truth that an earlier corruption recorded moves along with the instance.
        flags = {name: values[content] for name, values in data.flags.items()}
        return replace(
            data,
            train=Split(x=data.train.x[content], y=data.train.y[content], ids=ids),
            display=display,
            flags={**flags, "duplicate": marked(n, copies), "duplicate_of": duplicate_of},
            notes=(*data.notes, f"Duplicates: {len(copies)} of {n} training instances were replaced by copies."),
        )
