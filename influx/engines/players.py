"""What estimators of cooperative games share: who plays, which game, and the result around the players' values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx.engines.contrasts import joint_table
from influx.engines.game_plans import Scheme, every_coalition, permuted
from influx.engines.games import Array, RetrainingGame, check_empty_value
from influx.engines.groups import Groups, groups_of
from influx.engines.permutations import drawn
from influx.engines.risks import Target, check_target
from influx.errors import ConfigError
from influx.influence import Influence
from influx.planning import Prospect, Work

if TYPE_CHECKING:
    from influx.run import Run

EXACT = 14  # players above which all coalitions are too many
TABLE_ROWS = 1_000_000  # of a table with a row per test instance; a larger one is left out
APART = "the draw of test instances is apart, in table joint"
NO_SELF = "players are valued by the risks of test instances alone"


@dataclass(frozen=True)
class Players:
    """Training instances, or groups of them.

    Attributes:
        members: ``(players, n_train)`` which instances each brings; None when every instance is a player.
        names: for tables: ids of instances, or names of groups.
        ids: numbers in whose order players draw.
    """

    members: NDArray[np.bool_] | None
    names: NDArray[Any]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def spread(self, values: Array) -> Array:
        """``(n_train, m)`` from ``(players, m)``: a group's value in equal parts to its members, added up over groups.

        NaN for instances in no group.
        """
        if self.members is None:
            return values
        share = self.members / np.maximum(self.members.sum(axis=1, keepdims=True), 1)
        spread = np.asarray(share.T @ values)
        spread[~self.members.any(axis=0)] = np.nan
        return spread


@dataclass(frozen=True, kw_only=True)
class Cooperative:
    """Settings of the game in which training instances, or groups of them, cooperate."""

    refuses: ClassVar[Mapping[str, str]] = {"memorization": NO_SELF}

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
        if self.groups is None:
            found = Players(None, run.train.ids, run.train.ids)
        else:
            groups: Groups = groups_of(run, self.groups, self.group_count, self.group_size)
            found = Players(groups.members, np.array(groups.names), np.arange(len(groups)))
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

    def all_coalitions(self, prospect: Prospect, players: Players, rows: int) -> Work:
        """Work of a plan: all coalitions under each seed, summed with ``rows`` coefficients each."""
        n, m = len(prospect.train), len(prospect.test)
        return every_coalition(len(players), players.members, n, m, tuple(range(self.seeds)), rows)

    def walked(self, prospect: Prospect, count: int, scheme_of: Callable[[int, int], Scheme]) -> Work:
        """Work of a plan: ``count`` permutations of a scheme for so many players and columns.

        What a rule or truncation may save is counted.
        """
        players, n, m = self.players(prospect), len(prospect.train), len(prospect.test)
        scheme, rng = scheme_of(len(players), m + 1), prospect.drawn("permutations")

        def draw(number: int) -> NDArray[np.int64]:
            return drawn(players.ids, number, scheme.units == 2, rng)

        return permuted(draw, count, players.members, n, m, tuple(range(self.seeds)), scheme)

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
        """Influence of instances from values of players (players, m + 1), the last column their mean, and tables.

        ``stderr`` is from several seeds, unless the report says otherwise.
        """
        told, said = dict(tables), dict(report)
        if stderr is not None:
            joint, error = players.spread(values), players.spread(stderr)
            told["joint"] = joint_table(run.train.ids, joint[:, :-1], joint[:, -1], error[:, -1])
            over = {"stderr_holds": f"randomness of training ({self.seeds} seeds); {APART}"}
            said = over | {"stderr_degrees": self.seeds - 1} | said
        if players.members is not None:
            sizes = players.members.sum(axis=1)
            told |= tabulated("groups", {"group": players.names, "size": sizes}, values, stderr, run.test.ids)
        return run.influence(
            players.spread(values[:, :-1]),
            stderr=None if stderr is None else players.spread(stderr[:, :-1]),
            scale="loss" if self.target == "loss" else "rank",
            replicates=tuple(players.spread(each[:, :-1]) for each in replicates),
            tables=told,
            report={"players": len(players), "seeds": self.seeds, "empty_value": self.empty_value} | said,
        )


def holds(what: str, seeds: int) -> str:
    """What a standard error from draws holds, and what it does not."""
    same = "one seed" if seeds == 1 else f"the same {seeds} seeds in every coalition"
    return f"draw of {what}, no randomness of training ({same}); {APART}"


def over_seeds(parts: Sequence[Array]) -> tuple[Array, Array | None]:
    """Mean over seeds, and its standard error where there are several."""
    if len(parts) == 1:
        return parts[0], None
    return np.mean(parts, axis=0), np.std(parts, axis=0, ddof=1) / np.sqrt(len(parts))


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
