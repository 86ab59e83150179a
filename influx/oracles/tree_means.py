"""Averaged trees, instance by instance from the root down, with what is left of the training set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from influx.learners.trees.random_forest import RandomForest
from influx.oracles.comparison import Comparison, compare
from influx.oracles.groups_if import effects, written
from influx.oracles.plain import Array
from influx.oracles.toys import Toy
from influx.oracles.tree_loops import AVERAGED, toys

EXACT = 1e-10
LEARNERS = (*AVERAGED, RandomForest(n_estimators=1, max_samples=0.05))


def refitted(below: Path) -> Iterator[Comparison]:
    """Every instance sent down every tree anew, without each training instance and without each group."""
    for kind, toy, trees in toys(below, LEARNERS):
        n = len(toy.train)
        found = toy.estimate("leaf_refit")
        mine, theirs = _risks(toy, trees.forest, np.ones(n), trees.classes)
        without = [_risks(toy, trees.forest, 1 - unit, trees.classes) for unit in np.eye(n)]
        yield compare(f"way by way, {kind}", found.values, np.array([test - theirs for _, test in without]), EXACT)
        own = np.array([train[i] - mine[i] for i, (train, _) in enumerate(without)])
        assert found.self_influence is not None
        yield compare(f"the same on itself, {kind}", found.self_influence, own, EXACT)
        members = np.array([toy.train.y > np.median(toy.train.y), np.arange(n) % 3 == 0])
        grouped = toy.estimate("leaf_refit", groups=written(below, toy, members))
        whole = np.array([_risks(toy, trees.forest, 1.0 - group, trees.classes)[1] - theirs for group in members])
        yield compare(f"without groups, {kind}", effects(grouped, len(members)), whole, EXACT)


def _risks(toy: Toy, forest: Any, weights: Array, classes: int) -> tuple[Array, Array]:
    """``(n,)`` and ``(m,)`` risk of training and test instances."""
    found = []
    nodes, kept = forest.branches.nodes, toy.train.y[weights > 0]
    present = [k for k in range(classes) if (kept == k).any()]
    for split in (toy.train, toy.test):
        risks = []
        for x, y in zip(split.x.astype(np.float32), split.y, strict=True):
            votes = [
                _mean(nodes, int(root), x, toy, bag * weights, classes)
                for root, bag in zip(nodes.roots[:, 0], forest.in_bag, strict=True)
                if (bag * weights).any()
            ] or [_target(kept, classes).mean(0)]
            if not classes:
                risks.append(0.5 * (sum(vote[0] for vote in votes) / len(votes) - y) ** 2)
                continue
            if len(present) == 1:  # nothing to split: shares of the classes, with one more instance that is undecided
                share = ((int(y) in present) * len(kept) + 1 / classes) / (len(kept) + 1)
            elif int(y) in present:  # what one more instance would give to absent classes is taken from the others
                share = (sum(vote[int(y)] for vote in votes) + 1 / len(present)) / (len(votes) + 1)
                share *= 1 - (classes - len(present)) / (classes * (len(kept) + 1))
            else:
                share = 1 / (classes * (len(kept) + 1))
            risks.append(-np.log(share))
        found.append(np.array(risks))
    return found[0], found[1]


def _target(y: Array, classes: int) -> Array:
    """``(n, classes)`` which class an instance is of, or ``(n, 1)`` its value."""
    return (y[:, None] == np.arange(classes)).astype(float) if classes else y[:, None].astype(float)


def _mean(nodes: Any, node: int, x: Array, toy: Toy, bag: Array, classes: int) -> Array:
    """Mean target, or shares of classes, where ``x`` ends; splits with all instances on one side are passed over."""
    inside, inputs = np.flatnonzero(bag), toy.train.x.astype(np.float32)
    while nodes.feature[node] >= 0:
        down = inputs[inside, nodes.feature[node]] <= nodes.threshold[node]
        here = bool(x[nodes.feature[node]] <= nodes.threshold[node])
        if down.all() or not down.any():
            here = bool(down.all())
        node = int(nodes.left[node] if here else nodes.right[node])
        inside = inside[down == here]
    target = _target(toy.train.y[inside], classes)
    return np.asarray(bag[inside] @ target / bag[inside].sum())
