"""A forest read from trained trees, and held against the library that grew them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from influx.engines.forest import EVERY, Array, Forest, Name, Objective, Some
from influx.errors import IncompatibleError
from influx.learners.trees.branches import Branches
from influx.learners.trees.ensemble import Ensemble
from influx.learners.trees.fitted import TreesFitted, flat
from influx.problem import Data

ASKED = 8  # at most, instances of each split whose margins the library is asked for
JOINED_BYTES = 16 << 20  # of inputs that are copied for one call: beginning it takes longer than small data

Inputs = NDArray[np.float32]
Rows = NDArray[np.int64]


class Seen(NamedTuple):
    """What a library says of one split: leaves ``(T, C, n)`` of all instances, margins ``(C, rows)`` of some."""

    leaves: NDArray[np.int32]
    margins: Array


def check(forest: Forest, train: Array, test: Array, name: str, rows: tuple[Some, Some] = (EVERY, EVERY)) -> Forest:
    """The forest itself, if it is what the library trained.

    Args:
        forest: as read from the library.
        train: ``(C, rows)`` the library's own margins of training instances (of averaged trees: their means).
        test: ``(C, rows)`` the same of test instances.
        name: of the model, for the message.
        rows: which instances these are.

    Raises:
        IncompatibleError: leaf values recomputed from the data, or margins, differ by more than its rounding.
    """
    ours = forest.margins(rows=rows)
    pairs = {
        "leaf values recomputed from the data": (forest.recomputed(), forest.values),
        "margins of training instances": (ours[0], train),
        "margins of test instances": (ours[1], test),
    }
    for what, (mine, its) in pairs.items():
        allowed = forest.tolerance * max(1e-3, float(np.abs(its).max(initial=0.0)))
        gap = float(np.abs(mine - its).max(initial=0.0)) if mine.shape == its.shape else np.inf
        if not gap <= allowed:
            raise IncompatibleError(
                f"{what} must equal those of model={name} for attribution, they differ by up to {gap:.3g} where "
                f"{allowed:.1g} is allowed; use the default settings of model={name} or a retraining estimator"
            )
    return forest


def read(fitted: TreesFitted, data: Data) -> Forest:
    """The trained trees as they see ``data``, checked against the library.

    All leaf values are recomputed; margins are compared for ``ASKED`` instances of each split, evenly spaced, since
    they are sums of those values. Trees that were read into arrays have none of their library here: ``TreeLearner.fit``
    holds those against it when they are grown.

    Raises:
        IncompatibleError: the leaves follow another rule than that of ``Forest``, or a class has no training instance.
    """
    rule, grown = fitted.rule, fitted.ensemble
    if data.task == "classification" and len(fitted.predictor.present) < len(data.classes):
        raise IncompatibleError(
            f"tree methods need training instances of every class, dataset={data.name} has only "
            f"{len(fitted.predictor.present)} of {len(data.classes)} in its training split; raise dataset.n_train"
        )
    rows = _spaced(len(data.train)), _spaced(len(data.test))
    train, test = _of_both(grown, flat(data.train), flat(data.test), rows)
    leaves = grown.values(train.leaves)
    forest = Forest(
        boosted=rule.boosted,
        objective=Objective(_name(data) if rule.boosted else "share"),
        train_y=data.train.y,
        test_y=data.test.y,
        base=leaves.base,
        train_leaves=train.leaves,
        test_leaves=test.leaves,
        values=leaves.values,
        sizes=leaves.sizes,
        fixed=leaves.fixed,
        rate=rule.rate,
        l2=rule.l2,
        factor=rule.factor,
        newton=rule.newton,
        in_bag=leaves.in_bag,
        branches=Branches.of(fitted, data),
        tolerance=rule.tolerance,
    )
    return check(forest, train.margins, test.margins, fitted.learner.name, rows)


def _of_both(grown: Ensemble, train: Inputs, test: Inputs, rows: tuple[Rows, Rows]) -> tuple[Seen, Seen]:
    """What a library says of both splits and of ``rows`` in them, in one call where they are small."""
    if train.nbytes + test.nbytes > JOINED_BYTES:
        return Seen(*grown.seen(train, rows[0])), Seen(*grown.seen(test, rows[1]))
    n, some = len(train), len(rows[0])
    leaves, margins = grown.seen(np.concatenate([train, test]), np.concatenate([rows[0], n + rows[1]]))
    return Seen(leaves[..., :n], margins[:, :some]), Seen(leaves[..., n:], margins[:, some:])


def _spaced(n: int) -> Rows:
    """At most ``ASKED`` of n, evenly spaced."""
    return np.arange(0, n, max(1, -(-n // ASKED)))


def _name(data: Data) -> Name:
    if data.task == "regression":
        return "squared_error"
    return "logistic" if len(data.classes) == 2 else "softmax"
