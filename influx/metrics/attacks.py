"""Poisoning as a defender meets it: which test instances are attacked, towards which class, and by whom."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.metrics.refit import Judge, Rows
from influx.planning import Prospect
from influx.problem import Data
from influx.run import Run


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A known attack, and who judges what is left of it.

    Attributes:
        guilty: ``(n,)`` the poisoned training instances.
        known: attacked test rows that the defender has, ascending.
        watched: all test rows that the defender looks through, attacked ones among them, ascending.
        sign: 1 where test labels are what the attacker wants, so that poison has high influence; -1 where they are
            true, so that it has low influence.
        success: judge whose ``quality`` is 1 where a model predicts what the attacker wants.
        accuracy: judge of the clean test instances.
        protocol: who is who, in a sentence.
    """

    guilty: NDArray[np.bool_]
    known: Rows
    watched: Rows
    sign: float
    success: Judge
    accuracy: Judge
    protocol: str


def attack_on(run: Run | Prospect, seeds: int) -> Attack | str:
    """The attack of corruption=backdoor or corruption=poison, or why there is none to judge.

    Raises:
        ConfigError: too few test instances.
    """
    data, judge = run.problem.data, Judge.of(run, seeds)
    if "backdoor" in data.flags:
        return _backdoor(data, judge)
    if "poison" in data.flags and "target" in data.test_flags:
        return _poison(data, judge)
    return "no training instance is known to be poisoned; set corruption=backdoor or corruption=poison"


def _backdoor(data: Data, judge: Judge) -> Attack | str:
    guilty = np.asarray(data.flags["backdoor"]).astype(bool)
    carries = np.asarray(data.test_flags.get("backdoor", np.zeros(len(data.test), bool))).astype(bool)
    if not carries.any() or carries.all():
        return "success needs test instances with the trigger and accuracy some without; set corruption.test=half"
    wanted = int(data.train.y[guilty][0])
    attacked = carries & (data.test.y != wanted)
    known, held = judge.ranking[attacked[judge.ranking]], judge.judging[attacked[judge.judging]]
    clean = judge.judging[~carries[judge.judging]]
    _enough(len(known), len(held), len(clean))
    return Attack(
        guilty=guilty,
        known=known,
        watched=judge.ranking,
        sign=-1.0,
        success=replace(judge, judging=held, y=np.full(len(held), wanted)),
        accuracy=replace(judge, judging=clean, y=data.test.y[clean]),
        protocol=(
            f"success: share of {len(held)} triggered test instances of other classes predicted as "
            f"{data.classes[wanted]!r}; accuracy on {len(clean)} clean ones; none of them ranks"
        ),
    )


def _poison(data: Data, judge: Judge) -> Attack | str:
    target = np.asarray(data.test_flags["target"]).astype(bool)
    aimed = np.flatnonzero(target)
    clean = judge.judging[~target[judge.judging]]
    _enough(len(aimed), len(aimed), len(clean))
    return Attack(
        guilty=np.asarray(data.flags["poison"]).astype(bool),
        known=aimed,
        watched=np.union1d(judge.ranking, aimed),
        sign=1.0,
        success=replace(judge, judging=aimed, y=data.test.y[aimed]),
        accuracy=replace(judge, judging=clean, y=data.test.y[clean]),
        protocol=(
            f"success: share of {len(aimed)} targets predicted as the attacker wants, which also rank, since poison "
            f"is made for one target; accuracy on {len(clean)} clean test instances that do not rank"
        ),
    )


def _enough(*counts: int) -> None:
    if min(counts) < 1:
        raise ConfigError("the test set has too few attacked or too few clean instances; raise dataset.n_test")
