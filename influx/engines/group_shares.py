"""What groups of training instances do, written as tables and as equal shares of their instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from influx.engines.groups import Groups

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
LONG_TABLE = 100_000  # rows of table group_influence; beyond, it is left out


@dataclass(frozen=True)
class Shares:
    """Groups whose influence is shared equally among their instances.

    The shares sum to the group's influence over a group of disjoint ones. An instance in several groups gets the sum
    of its shares, one in none has no value (NaN).
    """

    groups: Groups

    @property
    def sizes(self) -> NDArray[np.int64]:
        """``(groups,)`` numbers of instances."""
        return np.asarray(self.groups.members.sum(axis=1))

    @cached_property
    def nowhere(self) -> NDArray[np.bool_]:
        """``(n,)`` instances in no group."""
        return np.asarray(self.groups.members.sum(axis=0) == 0)

    @cached_property
    def _share(self) -> Array:
        return np.asarray(self.groups.members / np.maximum(self.sizes, 1)[:, None])  # (groups, n)

    @property
    def report(self) -> dict[str, int]:
        """How many groups there are, and instances in none and in several."""
        several = int((self.groups.members.sum(axis=0) > 1).sum())
        return {"groups": len(self.groups), "in_no_group": int(self.nowhere.sum()), "in_several_groups": several}

    def values(self, effects: Array) -> Array:
        """``(n, m)`` shares of the groups' influence ``effects`` (groups, m) on other instances."""
        values: Array = self._share.T @ effects
        values[self.nowhere] = np.nan
        return values

    def own(self, effects: Array) -> Array:
        """``(n,)`` share of each instance of the groups' influence ``effects`` (groups, n) on the instance itself."""
        return np.where(self.nowhere, np.nan, (self._share * effects).sum(axis=0))

    def tables(
        self, effects: Array, test_ids: NDArray[np.int64], more: Mapping[str, Array] | None = None
    ) -> dict[str, pd.DataFrame]:
        """Influence of each group on the mean test risk, and on each test instance unless that is long.

        ``effects`` (r, groups, m) are of r independent repetitions, whose spread is ``stderr``; ``more`` has further
        columns (groups,) for the first table.
        """
        import pandas as pd

        joint, (_, g, m) = effects.mean(axis=2), effects.shape
        columns = {
            "group": list(self.groups.names),
            "size": self.sizes,
            "influence": joint.mean(axis=0),
            "stderr": standard_error(joint),
            "stderr_test": effects.mean(axis=0).std(axis=1, ddof=1) / np.sqrt(m) if m > 1 else np.full(g, np.nan),
        }
        tables = {"groups": pd.DataFrame(columns | dict(more or {}))}
        if g * m <= LONG_TABLE:
            columns = {
                "group": np.repeat(self.groups.names, m),
                "test_id": np.tile(test_ids, g),
                "influence": effects.mean(axis=0).ravel(),
                "stderr": standard_error(effects).ravel(),
            }
            tables["group_influence"] = pd.DataFrame(columns)
        return tables


def standard_error(repeated: Array) -> Array:
    """Standard error of the mean over the first axis; NaN for a single repetition."""
    if len(repeated) < 2:
        return np.full(repeated.shape[1:], np.nan)
    return np.asarray(repeated.std(axis=0, ddof=1) / np.sqrt(len(repeated)))
