"""Two banks of retrained models: one to choose settings by, one to judge with. They share no model.

Settings that were chosen to do well on some models do well on those models by luck too. What a metric draws or
trains with ``bank=tune`` is therefore never drawn or trained with ``bank=test``: subsets, groups and random controls
come from other streams, models from other initialisations and batch orders. ``bank=tune`` sees the ranking half of the
test set alone. Where seeds have no effect, draws differ and the model trained on everything is in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.errors import ConfigError
from influx.metrics.refit import LEAST_TESTS, Judge, Rows, counts_for
from influx.metrics.statistics import FloatArray
from influx.planning import Prospect
from influx.problem import Design
from influx.run import Run

BankName = Literal["test", "tune"]
FIRST_TUNING_SEED = 1_000_000  # nobody averages over so many


def check_bank(setting: str, bank: str) -> None:
    """Refuse other names.

    Raises:
        ConfigError: naming the setting.
    """
    if bank not in get_args(BankName):
        raise ConfigError(f"{setting} must be {' or '.join(get_args(BankName))}, got {bank!r}; change it")


def named(bank: str, what: str) -> str:
    """The name of a stream of draws: its own for each bank."""
    return what if bank == "test" else f"{bank}/{what}"


def seeds_of(bank: str, count: int) -> list[int]:
    """Initialisations and batch orders of the bank's models."""
    first = 0 if bank == "test" else FIRST_TUNING_SEED
    return list(range(first, first + count))


def under_seeds(design: Design, bank: str) -> Design:
    """The design under the seeds of the bank instead of 0, 1, …."""
    first = 0 if bank == "test" else FIRST_TUNING_SEED
    return replace(design, init=design.init + first, order=design.order + first)


def paired(weights: NDArray[np.uint8], bank: str, count: int) -> Design:
    """Trainings on each row of ``weights`` (rows, n) under each of ``count`` seeds of the bank, seed after seed."""
    turn = np.repeat(np.array(seeds_of(bank, count), dtype=np.int64), len(weights))
    return Design(weights=np.tile(weights, (count, 1)), init=turn, order=turn.copy(), loss_norm="subset")


def distinct_seeds(run: Run | Prospect, seeds: int) -> int:
    """How many of the seeds make models of their own: one where training has no randomness."""
    return 1 if getattr(run.problem.learner, "deterministic", False) else seeds


def stated(bank: str) -> str:
    """The bank and what that says about tuning, for protocols: the same words for every learner of the instances."""
    shared = "where seeds have no effect at most the model on everything"
    if bank == "test":
        return f"bank=test: none of these models is seen by bank=tune, {shared}"
    return f"bank=tune: for choosing settings, none of these models judges, {shared}"


def removed(shares: Sequence[float], n: int, setting: str) -> list[int]:
    """How many of ``n`` instances go with each share, ascending.

    Raises:
        ConfigError: a share selects none of them or all, or two select as many.
    """
    counts = counts_for(shares, n, setting)
    if counts[-1] >= n:
        raise ConfigError(f"{setting}={list(shares)} leaves none of {n} training instances; lower it")
    return counts


def retrained(
    run: Run,
    weights: NDArray[np.uint8],
    tests: Rows,
    *,
    bank: str,
    seeds: int,
    what: Literal["loss", "prediction"],
    label: str,
) -> FloatArray:
    """``(seeds, rows, k)`` what models trained on each row of ``weights`` (rows, n) make of its test rows (rows, k)."""
    design, at = paired(weights, bank, seeds), np.tile(tests, (seeds, 1))
    found = np.empty(at.shape)
    for rows, _, test in run.retrain.parts(design, label):
        found[rows] = np.take_along_axis(getattr(test, what), at[rows], axis=1)
    return found.reshape(seeds, *tests.shape)


def judging(run: Run | Prospect, bank: str) -> Rows:
    """Test rows of a metric that ranks by none of them: all, or the ranking half for ``tune``."""
    return np.arange(len(run.test)) if bank == "test" else Judge.of(run, 1).ranking


def columns_of(values: NDArray[Any], tests: Rows) -> NDArray[Any]:
    """The columns of some test rows, ascending; ``values`` (n, m) itself for all of them."""
    return values if len(tests) == values.shape[1] else values[:, tests]


@dataclass(frozen=True, kw_only=True)
class Halves(Judge):
    """A judge whose models belong to one bank."""

    bank: BankName

    @classmethod
    def in_bank(cls, run: Run | Prospect, seeds: int, bank: BankName) -> Halves:
        """The judge of the bank: that of all metrics for ``test``, halves of its ranking half for ``tune``.

        Raises:
            ConfigError: too few test instances.
        """
        judge = Judge.of(run, seeds)
        ranking, judging = judge.ranking, judge.judging
        if bank == "tune":
            if len(ranking) < LEAST_TESTS:
                raise ConfigError(
                    f"bank=tune ranks and judges within half of the test instances, which takes {2 * LEAST_TESTS} of "
                    f"them, got {len(run.test)}; raise dataset.n_test"
                )
            whole, draws = ranking, run.drawn(named(bank, "ranking half"))
            ranking = subsets.some(run.test.ids, whole, len(whole) // 2, draws)
            judging = np.setdiff1d(whole, ranking)
        y = run.test.y[judging]
        return cls(ranking=ranking, judging=judging, y=y, classes=judge.classes, seeds=seeds, bank=bank)

    @property
    def numbers(self) -> list[int]:
        """Initialisations and batch orders of every condition."""
        return seeds_of(self.bank, self.seeds)


def queries(run: Run | Prospect, bank: str, count: int | None, among: Rows | None = None) -> Rows:
    """Test rows that are asked about one by one, ascending: at most ``count`` of ``among`` (default: all).

    The banks ask about different halves of the test set.
    """
    judge = Judge.of(run, 1)
    half = judge.judging if bank == "test" else judge.ranking
    rows = half if among is None else np.intersect1d(half, among)
    return rows if count is None else subsets.some(run.test.ids, rows, count, run.drawn(named(bank, "queries")))
