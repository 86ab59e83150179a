"""No corruption."""

from __future__ import annotations

from dataclasses import dataclass

from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class NoCorruption:
    """The data as they are."""

    def apply(self, data: Data, seed: int) -> Data:
        """Return the same data."""
        return data
