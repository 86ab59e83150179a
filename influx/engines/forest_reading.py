"""A forest read from trained trees, and held against the library that grew them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.engines.forest import EVERY, Array, Forest, Name, Objective
from influx.errors import IncompatibleError
from influx.learners.trees.branches import Branches
from influx.learners.trees.fitted import TreesFitted, flat
from influx.problem import Data

ASKED = 8  # at most, instances of each split whose margins the library is asked for
JOINED_BYTES = 16 << 20  # of inputs that are copied for one call: beginning it takes longer than small data


def check(forest: Forest, train: Array, test: Array, name: str, rows: tuple[slice, slice] = (EVERY, EVERY)) -> Forest:
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
    rule, leaves, grown = fitted.rule, fitted.structure, fitted.ensemble
    if data.task == "classification" and len(fitted.predictor.present) < len(data.classes):
        raise IncompatibleError(
            f"tree methods need training instances of every class, dataset={data.name} has only "
            f"{len(fitted.predictor.present)} of {len(data.classes)} in its training split; raise dataset.n_train"
        )
    inputs = flat(data.train), flat(data.test)
    some = _spaced(len(inputs[0])), _spaced(len(inputs[1]))
    train_leaves, test_leaves = _of_both(inputs, grown.leaves)
    forest = Forest(
        boosted=rule.boosted,
        objective=Objective(_name(data) if rule.boosted else "share"),
        train_y=data.train.y,
        test_y=data.test.y,
        base=leaves.base,
        train_leaves=train_leaves,
        test_leaves=test_leaves,
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
    trained, tested = _of_both([x[rows] for x, rows in zip(inputs, some, strict=True)], grown.margins)
    return check(forest, trained, tested, fitted.learner.name, some)


def _of_both(
    inputs: Sequence[NDArray[np.float32]], ask: Callable[[NDArray[np.float32]], NDArray[Any]]
) -> list[NDArray[Any]]:
    """What a library says ``(..., n)`` and ``(..., m)`` of both splits, in one call where they are small."""
    if sum(x.nbytes for x in inputs) > JOINED_BYTES:
        return [ask(np.ascontiguousarray(x)) for x in inputs]
    return np.split(ask(np.concatenate(inputs)), [len(inputs[0])], axis=-1)


def _spaced(n: int) -> slice:
    """At most ``ASKED`` of n, evenly spaced."""
    return slice(None, None, max(1, -(-n // ASKED)))


def _name(data: Data) -> Name:
    if data.task == "regression":
        return "squared_error"
    return "logistic" if len(data.classes) == 2 else "softmax"
