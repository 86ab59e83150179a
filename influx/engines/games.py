"""Cooperative games: what a set of players is worth. The larger a value, the better; a risk enters with a minus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines.risks import Target, risks
from influx.errors import ConfigError
from influx.problem import Data, Design, Outcomes, Problem

if TYPE_CHECKING:
    from influx.engines.retrain import Bank

Array = NDArray[np.float64]
Coalitions = NDArray[np.bool_]
EMPTY = ("init_model", "uniform")
WEIGHTS_BYTES = 128 << 20  # of the instance weights of coalitions trained in one call, with copies
FEWEST = 256  # coalitions in one call, whatever they take


class Game(Protocol):
    """Players and the value of every coalition of them, in m columns at once."""

    @property
    def players(self) -> int:
        """How many there are."""
        ...

    def values(self, coalitions: Coalitions) -> Array:
        """``(K, m)`` values of the coalitions (K, players)."""
        ...


@dataclass(frozen=True)
class TableGame:
    """A game written out: row b of ``table`` (2^players, m) is the coalition of the players whose bit is set in b."""

    table: Array

    @property
    def players(self) -> int:
        """How many there are."""
        return len(self.table).bit_length() - 1

    def values(self, coalitions: Coalitions) -> Array:
        """``(K, m)`` values, looked up."""
        return self.table[coalitions @ (1 << np.arange(self.players))]


@dataclass(frozen=True, kw_only=True)
class RetrainingGame:
    """Training instances, or groups of them, that cooperate in training: v(S)[j] = -risk of test instance j.

    The model of a coalition is trained on its instances alone, in the batches of the whole training, each divided by
    what survives of it. Instances in no group are in every coalition. Coalitions are trained in blocks and kept in
    the retraining bank.

    Attributes:
        bank: where models are trained.
        target: the risk.
        members: ``(players, n_train)`` which instances a player brings; None when every instance is a player.
        seeds: initialisations and orders whose values are averaged.
        empty_value: the risk after training on nothing: a number, ``uniform``, or ``init_model``: that of the untrained
            net. The bank's training with all weights 0 would shrink it by weight decay; for learners that are no nets
            it is what training on nothing leads to.
    """

    bank: Bank
    target: Target
    members: Coalitions | None = None
    seeds: tuple[int, ...] = (0,)
    empty_value: str | float = "init_model"

    @property
    def players(self) -> int:
        """How many there are."""
        return len(self.bank.problem.train) if self.members is None else len(self.members)

    def values(self, coalitions: Coalitions) -> Array:
        """``(K, m)`` values; equal coalitions are trained once."""
        kept, back = distinct(coalitions)
        found = np.empty((len(kept), len(self.bank.problem.test)))
        size = max(WEIGHTS_BYTES // (4 * len(self.bank.problem.train) * len(self.seeds)), FEWEST)
        for start in range(0, len(kept), size):
            part = slice(start, start + size)
            found[part] = self._trained(weights_of(coalitions[kept[part]], self.members))
        return found[back]

    def _trained(self, weights: NDArray[np.uint8]) -> Array:
        test = self.bank.problem.test
        found = np.zeros((len(weights), len(test)))
        trained = weights.any(axis=1)
        if not trained.all():
            found[~trained] = self.empty
        if trained.any():
            design, row_of = designed(weights[trained], self.seeds), np.repeat(np.flatnonzero(trained), len(self.seeds))
            for rows, _, outcomes in self.bank.parts(design, "retraining coalitions"):
                np.add.at(found, row_of[rows], -risks(outcomes, test, self.target) / len(self.seeds))
        return found

    @cached_property
    def empty(self) -> Array:
        """``(m,)`` value of training on nothing."""
        data, m = self.bank.problem.data, len(self.bank.problem.test)
        if not isinstance(self.empty_value, str):
            return np.full(m, -float(self.empty_value))
        if self.empty_value == "uniform":
            return np.full(m, -_risk_of_guessing(self.target, data))
        start = [risks(untrained(self.bank, seed), data.test, self.target)[0] for seed in self.seeds]
        return -np.asarray(np.mean(start, axis=0))


def weights_of(coalitions: Coalitions, members: Coalitions | None) -> NDArray[np.uint8]:
    """``(K, n_train)`` instance weights of coalitions: those of its members, and of instances that nobody brings."""
    if members is None:
        return np.ascontiguousarray(coalitions).view(np.uint8)
    brought = np.minimum(coalitions.astype(np.float32) @ members.astype(np.float32), 1).astype(np.uint8)
    return brought | (~members.any(axis=0)).astype(np.uint8)


def distinct(masks: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of 0 and 1 that are different from one another, and for every row the place of its equal among them."""
    packed = np.packbits(masks, axis=1)
    _, kept, back = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return kept.astype(np.int64), back.reshape(-1).astype(np.int64)


def designed(weights: NDArray[np.uint8], seeds: tuple[int, ...]) -> Design:
    """Each row of ``weights`` trained under each seed, one after the other."""
    numbers = np.tile(np.array(seeds, dtype=np.int64), len(weights))
    repeated = weights if len(seeds) == 1 else np.repeat(weights, len(seeds), axis=0)
    return Design(weights=repeated, init=numbers, order=numbers.copy(), loss_norm="subset")


def untrained(bank: Bank, seed: int) -> Outcomes:
    """Outcomes on test ``(1, m)`` of the net before its training; of other learners, trained with all weights 0."""
    from influx.learners.torch.learner import TorchLearner
    from influx.learners.torch.optimizers import SGD

    problem: Problem = bank.problem
    nothing = designed(np.zeros((1, len(problem.train)), np.uint8), (seed,))
    learner = problem.learner
    if not isinstance(learner, TorchLearner):
        return bank.outcomes(nothing)[1]
    # without weight decay and momentum an epoch of zero gradients leaves the parameters as they are
    training = replace(learner.training, epochs=1, warmup_steps=0, block=1)
    still = replace(learner, optimizer=SGD(lr=1.0), training=training)
    return still.retrain(problem.data, problem.seed, nothing)[1]


def check_empty_value(empty_value: str | float, data: Data | None = None) -> None:
    """Refuse a value that does not exist, or that these data do not have.

    Raises:
        ConfigError: naming the setting.
    """
    known = empty_value in EMPTY if isinstance(empty_value, str) else np.isfinite(empty_value)
    if not known:
        raise ConfigError(
            f"estimator.empty_value must be {' or '.join(EMPTY)} or a finite number, got {empty_value!r}; change it"
        )
    if empty_value == "uniform" and data is not None and data.task != "classification":
        raise ConfigError(
            "estimator.empty_value=uniform needs classes, and this is regression; use estimator.empty_value=init_model"
        )


def _risk_of_guessing(target: Target, data: Data) -> float:
    """The risk when all classes have the same probability, their margin being log p / (1 - p)."""
    classes = len(data.classes)
    loss, margin, zero_one = get_args(Target)
    return {loss: float(np.log(classes)), margin: float(np.log(classes - 1)), zero_one: 1 - 1 / classes}[target]
