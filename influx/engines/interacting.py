"""What estimators of the interaction of pairs share: settings, plan, and results from coalitions or permutations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx.engines import subsets
from influx.engines.coalitions import all_pairs
from influx.engines.game_plans import Scheme
from influx.engines.games import Array, Game
from influx.engines.pairs import Interactions
from influx.engines.permutations import check_permutations
from influx.engines.players import Cooperative, Players, holds, over_seeds, tabulated
from influx.influence import Influence
from influx.planning import Prospect, Work

if TYPE_CHECKING:
    from influx.run import Run

Index = Callable[[Game, NDArray[np.int64]], Interactions]
INSTEAD = "estimator.estimator=permutation"


@dataclass(frozen=True, kw_only=True)
class Interacting(Cooperative):
    """Settings of a game whose pairs of players have a value too."""

    estimator: Literal["exact", "permutation"] = "exact"
    permutations: int = 100

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_permutations(self.permutations, False, 1)

    def planned(self, prospect: Prospect, scheme_of: Callable[[int, int], Scheme]) -> Work:
        """All coalitions, or those of the permutations."""
        if self.estimator == "permutation":
            return self.walked(prospect, self.permutations, scheme_of)
        players = self.few_players(prospect, INSTEAD)
        return self.all_coalitions(prospect, players, len(players) * (len(players) + 1) // 2)

    def exactly(self, run: Run, values_of: Callable[[Game], tuple[Array, Array]]) -> Influence:
        """From all coalitions under each seed: values of players (players, m + 1) and of pairs (pairs, m + 1)."""
        players = self.few_players(run, INSTEAD)
        found = [values_of(self.game(run, players, (seed,))) for seed in range(self.seeds)]
        parts = [values for values, _ in found]
        values, stderr = over_seeds(parts)
        tables = pair_tables(players, *over_seeds([pairs for _, pairs in found]), run.test.ids)
        return self.result(run, players, values, stderr, tables, {"coalitions": 2 ** len(players)}, parts)

    def sampled(
        self, run: Run, players: Players, index: Callable[[Game, NDArray[np.int64]], Interactions]
    ) -> Interactions:
        """The index from permutations."""
        orders = subsets.permutations(players.ids, self.permutations, run.drawn("permutations"))
        return index(self.game(run, players), orders)

    def told(self, run: Run, players: Players, found: Interactions, report: Mapping[str, Any]) -> Influence:
        """The result of ``sampled``."""
        tables = pair_tables(players, found.pairs, found.pairs_stderr, run.test.ids)
        error = {"stderr_holds": holds("permutations", self.seeds), "stderr_degrees": self.permutations - 1}
        said = {"coalitions": found.coalitions} | dict(report) | error
        return self.result(run, players, found.values, found.stderr, tables, said)


def pair_tables(
    players: Players, values: Array, stderr: Array | None, test_ids: NDArray[np.int64]
) -> dict[str, pd.DataFrame]:
    """Tables of interactions (pairs, m + 1)."""
    first, second = all_pairs(len(players))
    names = {"first": players.names[first], "second": players.names[second]}
    return tabulated("interactions", names, values, stderr, test_ids)
