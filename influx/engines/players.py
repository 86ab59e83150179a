"""What estimators of cooperative games share: who plays, which game, and the result around the players' values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx.engines.coalitions import pairs_of
from influx.engines.games import Array, RetrainingGame, check_empty_value, designed, weights_of
from influx.engines.groups import Groups, groups_of
from influx.engines.permutations import prefixes_of
from influx.engines.risks import Target, check_target
from influx.errors import ConfigError
from influx.influence import Influence
from influx.planning import Prospect, Work

if TYPE_CHECKING:
    from influx.run import Run

EXACT = 14  # players above which all coalitions are too many
TABLE_ROWS = 1_000_000  # of a table with a row per test instance; a larger one is left out
PLANNED_BYTES = 256 << 20  # of the coalitions that a plan looks up


@dataclass(frozen=True)
class Players:
    """Training instances, or groups of them.

    Attributes:
        members: ``(players, n_train)`` which instances each brings.
        names: for tables: ids of instances, or names of groups.
        ids: numbers in whose order players draw.
        grouped: whether they are groups.
    """

    members: NDArray[np.bool_]
    names: NDArray[Any]
    ids: NDArray[np.int64]
    grouped: bool

    def __len__(self) -> int:
        return len(self.names)

    def spread(self, values: Array) -> Array:
        """``(n_train, m)`` from ``(players, m)``: a group's value in equal parts to its members, added up over groups.

        NaN for instances in no group.
        """
        if not self.grouped:
            return values
        share = self.members / np.maximum(self.members.sum(axis=1, keepdims=True), 1)
        spread = np.asarray(share.T @ values)
        spread[~self.members.any(axis=0)] = np.nan
        return spread


@dataclass(frozen=True, kw_only=True)
class Cooperative:
    """Settings of the game in which training instances, or groups of them, cooperate."""

    target: Target = "loss"
    seeds: int = 1
    empty_value: Literal["init_model", "uniform"] | float = "init_model"
    groups: str | None = None
    group_count: int = 10
    group_size: int = 10

    def __post_init__(self) -> None:
        """Check ranges."""
        check_target(self.target)
        check_empty_value(self.empty_value)
        if self.seeds < 1:
            raise ConfigError(f"estimator.seeds must be at least 1, got {self.seeds}; raise it")

    def players(self, run: Run | Prospect) -> Players:
        """Who plays on these data.

        Raises:
            ConfigError: the settings do not fit the data.
        """
        check_target(self.target, run.problem.data)
        check_empty_value(self.empty_value, run.problem.data)
        n = len(run.train)
        if self.groups is None:
            found = Players(np.eye(n, dtype=bool), run.train.ids, run.train.ids, False)
        else:
            groups: Groups = groups_of(run, self.groups, self.group_count, self.group_size)
            found = Players(groups.members, np.array(groups.names), np.arange(len(groups)), True)
        if len(found) < 2:
            raise ConfigError("a game needs at least 2 players, got 1; change estimator.groups or the data")
        return found

    def few_players(self, run: Run | Prospect, instead: str) -> Players:
        """Who plays, when all coalitions can be valued.

        Raises:
            ConfigError: they are too many; naming what to use ``instead``.
        """
        found = self.players(run)
        if len(found) > EXACT:
            raise ConfigError(
                f"all coalitions of {len(found)} players are too many, at most {EXACT} are possible; set "
                f"estimator.groups (label, cluster, random or a csv file) with at most {EXACT} groups, or use {instead}"
            )
        return found

    def game(self, run: Run, players: Players, seeds: Sequence[int] | None = None) -> RetrainingGame:
        """The game, with values averaged over ``seeds``, by default all."""
        if run.removal_noise and run.removal_noise not in run.warnings:
            run.warn(run.removal_noise)
        return RetrainingGame(
            bank=run.retrain,
            target=self.target,
            members=players.members,
            seeds=tuple(range(self.seeds) if seeds is None else seeds),
            empty_value=self.empty_value,
        )

    def trainings(self, players: Players, coalitions: NDArray[np.bool_], m: int, formula: str) -> Work:
        """Work of a plan: those of the coalitions (K, players) in which somebody trains."""
        weights = np.unique(weights_of(coalitions, players.members), axis=0)
        weights = weights[weights.any(axis=1)]
        n = weights.shape[1]
        return Work(
            trainings=(designed(weights, tuple(range(self.seeds))),),
            flops=4.0 * len(coalitions) * len(players) * m,
            numbers=4.0 * len(coalitions) * m,
            bytes=8.0 * (2 * n * m + min(len(coalitions), 2048) * (m + n)),
            formula=formula,
        )

    def walked(
        self,
        players: Players,
        orders: NDArray[np.int64],
        m: int,
        coalitions: Callable[[NDArray[np.int64]], NDArray[np.bool_]] = prefixes_of,
    ) -> Work:
        """Work of a plan: coalitions of permutations (P, players); of the first ones where all are too many to list."""
        each = coalitions(orders[:1]).shape[1]
        listed = max(PLANNED_BYTES // (each * players.members.shape[1] * self.seeds), 1)
        formula = f"at most {len(orders)} permutations x {each} coalitions x {self.seeds} seeds"
        if listed < len(orders):
            formula += f", of which those of {listed} are counted"
        asked = coalitions(orders[:listed]).reshape(-1, len(players))
        return self.trainings(players, np.concatenate([asked, np.ones_like(asked[:1])]), m, formula)

    def result(
        self,
        run: Run,
        players: Players,
        values: Array,
        stderr: Array | None,
        tables: Mapping[str, pd.DataFrame],
        report: Mapping[str, Any],
        replicates: Sequence[Array] = (),
    ) -> Influence:
        """Influence of instances from values of players (players, m + 1), the last column their mean, and tables."""
        told = dict(tables)
        if players.grouped:
            sizes = players.members.sum(axis=1)
            told |= tabulated("groups", {"group": players.names, "size": sizes}, values, stderr, run.test.ids)
        return run.influence(
            players.spread(values[:, :-1]),
            stderr=None if stderr is None else players.spread(stderr[:, :-1]),
            scale="loss" if self.target == "loss" else "rank",
            replicates=tuple(players.spread(each[:, :-1]) for each in replicates),
            tables=told,
            report={"players": len(players), "seeds": self.seeds, "empty_value": self.empty_value} | dict(report),
        )


def averaged(parts: Sequence[Array]) -> tuple[Array, Array | None]:
    """Mean over seeds, and its standard error where there are several."""
    if len(parts) == 1:
        return parts[0], None
    return np.mean(parts, axis=0), np.std(parts, axis=0, ddof=1) / np.sqrt(len(parts))


def pair_tables(
    players: Players, values: Array, stderr: Array | None, test_ids: NDArray[np.int64]
) -> dict[str, pd.DataFrame]:
    """Tables of interactions (pairs, m + 1)."""
    first, second = pairs_of(len(players))
    names = {"first": players.names[first], "second": players.names[second]}
    return tabulated("interactions", names, values, stderr, test_ids)


def tabulated(
    name: str, labels: Mapping[str, NDArray[Any]], values: Array, stderr: Array | None, test_ids: NDArray[np.int64]
) -> dict[str, pd.DataFrame]:
    """Tables ``name`` of the last column, the mean over test instances, and ``name``_by_test of the others.

    The second has a row per test instance and is left out above ``TABLE_ROWS``, or when there is but one column.
    """
    errors = np.full_like(values, np.nan) if stderr is None else stderr
    made = {name: pd.DataFrame({**labels, "value": values[:, -1], "stderr": errors[:, -1]})}
    m = values.shape[1] - 1
    if 0 < m * len(values) <= TABLE_ROWS:
        repeated = {key: np.repeat(column, m) for key, column in labels.items()}
        repeated["test_id"] = np.tile(test_ids, len(values))
        columns = {"value": values[:, :-1].ravel(), "stderr": errors[:, :-1].ravel()}
        made[f"{name}_by_test"] = pd.DataFrame({**repeated, **columns})
    return made
