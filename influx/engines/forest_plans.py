"""What computations on forests will take, from the learner's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from influx.errors import IncompatibleError
from influx.planning import Prospect, Work

REFIT_PASSES = 2.5  # over the margins of a round, which stay in the cache: derivatives, sums and values
BACK_PASSES = 1.2  # over the weights of margins of a round
TOP_PASSES = 6.0  # the same with the most moved leaves sought
ONE_PASSES = 30.0  # over margins of one ensemble, in small arrays
MATCHED = 0.15  # of a pair of instances and a tree
NEWTON_PRODUCTS = 20.0  # of a surrogate's fit


@dataclass(frozen=True)
class Size:
    """Instances, tests, trees (rounds times outputs) and leaves of a tree that is yet to grow."""

    n: int
    m: int
    trees: float
    leaves: float

    @property
    def told(self) -> str:
        """For formulas."""
        return f"n={self.n}, m={self.m}, {self.trees:.0f} trees"


def size_of(prospect: Prospect) -> Size:
    """From the settings of a learner of trees; leaves are at most the instances."""
    learner: Any = prospect.problem.learner
    n, m = len(prospect.train), len(prospect.test)
    outputs = prospect.problem.data.n_outputs
    outputs = outputs if outputs > 2 and not averages(learner) else 1
    depth = float(getattr(learner, "levels", 5.0))
    return Size(n, m, float(getattr(learner, "rounds", 100)) * outputs, float(min(2.0**depth, n)))


def refit_work(prospect: Prospect, groups: int) -> Work:
    """All leaves without each instance and each group."""
    s = size_of(prospect)
    if averages(prospect.problem.learner):
        outputs = max(1, len(prospect.problem.data.classes))
        each = ONE_PASSES * (s.n * outputs + s.m)
        return Work(
            numbers=s.trees * ((2 + groups) * each + 2 * MATCHED * s.n * s.m),
            bytes=8.0 * (2.0 * s.n * s.m + 8.0 * s.trees * (s.n + s.m)),
            formula=f"n m for each tree, {groups} groups x n, {s.told}",
        )
    refits = s.n + groups
    return Work(
        numbers=s.trees * refits * (REFIT_PASSES * s.n + 0.5 * s.m),
        bytes=8.0 * (3.0 * s.n * s.m + 2.0 * s.trees * (s.n + s.m)),
        formula=f"{refits} refits x {s.told}",
    )


def influence_work(prospect: Prospect, update_set: str, itself: bool) -> Work:
    """Leaf influence."""
    refuse_averaged(prospect.who, averages(prospect.problem.learner))
    s = size_of(prospect)
    if update_set == "single":
        return match_work(prospect)
    columns = s.n if update_set == "top_k" else s.m + s.n * itself
    passes = TOP_PASSES * (s.n + 0.5 * s.m) if update_set == "top_k" else BACK_PASSES * s.n
    return Work(
        numbers=s.trees * (ONE_PASSES * (s.n + s.m) + columns * passes),
        bytes=8.0 * (2.0 * s.n * s.m + 5.0 * s.trees * (s.n + s.m)),
        formula=f"{columns} columns of n numbers for each tree, {s.told}",
    )


def match_work(prospect: Prospect) -> Work:
    """Sums over shared leaves of boosted trees."""
    refuse_averaged(prospect.who, averages(prospect.problem.learner))
    s = size_of(prospect)
    return Work(
        numbers=s.trees * (ONE_PASSES * (s.n + s.m) + MATCHED * s.n * s.m),
        bytes=8.0 * (2.0 * s.n * s.m + 2.0 * s.trees * (s.n + s.m)),
        formula=f"n m for each tree, {s.told}",
    )


def kernel_work(prospect: Prospect) -> Work:
    """Products of leaf features."""
    s = size_of(prospect)
    return Work(
        numbers=s.trees * (4.0 * (s.n + s.m) + MATCHED * s.n * s.m) + 6.0 * s.n * s.m,
        bytes=8.0 * (3.0 * s.n * s.m + 2.0 * s.trees * (s.n + s.m + s.leaves)),
        formula=f"n m for each tree, {s.told}",
    )


def surrogate_work(prospect: Prospect) -> Work:
    """A linear model on leaves, and one product of leaf features."""
    s = size_of(prospect)
    classes = max(1, prospect.problem.data.n_outputs)
    fit = NEWTON_PRODUCTS * 4.0 * s.n * s.trees * classes
    return kernel_work(prospect) + Work(
        numbers=fit + 8.0 * s.n * s.m * classes,
        bytes=8.0 * (3.0 * s.n * s.m * classes + 4.0 * s.trees * s.leaves * classes),
        formula=f"{NEWTON_PRODUCTS:.0f} products of {s.n} x {s.trees:.0f} leaf features",
    )


def averages(learner: Any) -> bool:
    """Whether its trees are averaged, and then the same for all classes."""
    return hasattr(learner, "rule") and not learner.rule(1).boosted


def refuse_averaged(who: str, averaged: bool) -> None:
    """Stop an estimator that goes from round to round.

    Raises:
        IncompatibleError: its trees are averaged, so that no leaf depends on another tree.
    """
    if averaged:
        raise IncompatibleError(
            f"estimator={who} needs boosted trees, whose leaves follow from the trees before them, and this "
            "model averages independent ones; choose model=lightgbm or another boosted one, or estimator=leaf_refit"
        )
