"""A forest read from trained trees, and held against the library that grew them."""

from __future__ import annotations

import numpy as np

from influx.engines.forest import Array, Forest, Name, Objective
from influx.errors import IncompatibleError
from influx.learners.trees.branches import Branches
from influx.learners.trees.fitted import TreesFitted
from influx.problem import Data


def check(forest: Forest, train: Array, test: Array, name: str) -> Forest:
    """The forest itself, if it is what the library trained.

    Args:
        forest: as read from the library.
        train: ``(C, n)`` the library's own margins of the training instances (of averaged trees: their means).
        test: ``(C, m)`` the same of the test instances.
        name: of the model, for the message.

    Raises:
        IncompatibleError: leaf values recomputed from the data, or margins, differ by more than its rounding.
    """
    ours = forest.margins()
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

    Raises:
        IncompatibleError: the leaves follow another rule than that of ``Forest``, or a class has no training instance.
    """
    rule, leaves = fitted.rule, fitted.ensemble.values()
    if data.task == "classification" and len(fitted.predictor.present) < len(data.classes):
        raise IncompatibleError(
            f"tree methods need training instances of every class, dataset={data.name} has only "
            f"{len(fitted.predictor.present)} of {len(data.classes)} in its training split; raise dataset.n_train"
        )
    (trained, train_leaves), (tested, test_leaves) = fitted.seen(data.train), fitted.seen(data.test)
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
    return check(forest, trained, tested, fitted.learner.name)


def _name(data: Data) -> Name:
    if data.task == "regression":
        return "squared_error"
    return "logistic" if len(data.classes) == 2 else "softmax"
