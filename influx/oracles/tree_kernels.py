"""Linear models on leaves and similarities of leaves, with dense features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from influx.oracles import plain
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.tree_loops import AVERAGED, BOOSTED, Forest, toys


def _leaf_features(forest: Forest, power: float) -> tuple[Array, Array]:
    """Dense ``(n, leaves)`` and ``(m, leaves)``."""
    made = [np.zeros((len(y), len(forest.values))) for y in (forest.train_y, forest.test_y)]
    for features, leaves in zip(made, (forest.train_leaves, forest.test_leaves), strict=True):
        for t in range(forest.rounds):
            for c in range(forest.outputs if forest.boosted else 1):
                for i, leaf in enumerate(leaves[t, c]):
                    size = (forest.train_leaves[t, c] == leaf).sum()
                    features[i, forest.first[t, c] + leaf] = size ** -float(power) if size else 1.0
    return made[0], made[1]


def _dense_surrogate(phi: Array, target: Array, mean: Callable[[Array], Array], penalty: float) -> Array:
    """``(leaves, K)`` by Newton's method with the whole Hessian, outputs ``(n, K)``."""
    n, k = target.shape
    theta = np.zeros((phi.shape[1], k))
    for _ in range(60):
        p = mean(phi @ theta)
        gradient = phi.T @ (p - target) / n + penalty * theta
        h = np.zeros((theta.size, theta.size))
        for row, q in zip(phi, p, strict=True):
            bent = np.eye(1) if mean is _same else np.diag(q) - np.outer(q, q) if k > 1 else np.diag(q * (1 - q))
            h += np.kron(np.outer(row, row), bent) / n
        move = np.linalg.solve(h + penalty * np.eye(len(h)), gradient.ravel()).reshape(theta.shape)
        theta -= move
        if np.abs(move).max() < 1e-14 * max(1.0, np.abs(theta).max()):
            break
    return theta


def _same(outputs: Array) -> Array:
    return outputs


def _sigmoid(outputs: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-outputs)))


def trex(below: Path) -> Iterator[Comparison]:
    """A dense fit; its terms pair by pair; their sums."""
    for kind, toy, trees in toys(below, (*BOOSTED, *AVERAGED)):
        f, n, penalty = trees.forest, len(toy.train), 0.006
        phi, psi = _leaf_features(f, 1.0)
        labels = [1] if trees.classes == 2 else range(trees.classes)
        target, theirs = (
            np.array([[float(int(label) == k) for k in labels] for label in y])
            if trees.classes
            else y[:, None].astype(float)
            for y in (f.train_y, f.test_y)
        )
        mean = {0: _same, 2: _sigmoid}.get(trees.classes, plain.softmax)
        theta = _dense_surrogate(phi, target, mean, penalty)
        alpha = (target - mean(phi @ theta)) / (penalty * n)
        yield compare(f"Σ α φ is the fit, {kind}", phi.T @ alpha, theta, 1e-9)
        terms = np.array([[alpha[i] * (phi[i] @ psi[j]) for j in range(len(psi))] for i in range(n)])  # (n, m, K)
        yield compare(f"terms add up to outputs, {kind}", terms.sum(0), psi @ theta, 1e-9)
        outputs = psi @ theta
        loss = trees.risk(outputs, f.test_y)
        values = np.array([trees.risk(outputs - terms[i], f.test_y) - loss for i in range(n)])
        found = toy.estimate("trex")
        yield compare(f"losses without each term, {kind}", found.values, values, 1e-8)
        itself = phi @ theta
        parts = np.array([alpha[i] * (phi[i] @ phi[i]) for i in range(n)])
        own = trees.risk(itself - parts, f.train_y) - trees.risk(itself, f.train_y)
        assert found.self_influence is not None
        yield compare(f"the same on itself, {kind}", found.self_influence, own, 1e-8)
        side = np.where(theirs >= outputs, 1.0, -1.0) if not trees.classes else 2 * theirs - 1
        shown = (terms * (theirs if trees.classes > 2 else side)).sum(-1)
        yield compare(f"terms, {kind}", toy.estimate("trex", output="representer").values, shown, 1e-8)


def tree_similarity(below: Path) -> Iterator[Comparison]:
    """Dense features, pair by pair."""
    for kind, toy, trees in toys(below, (*BOOSTED, *AVERAGED)):
        for power in (0.0, 1.0):
            phi, psi = _leaf_features(trees.forest, power)
            products = np.array([[left @ right for right in psi] for left in phi])
            lengths = np.array([[np.sqrt((a @ a) * (b @ b)) for b in psi] for a in phi])
            alike = toy.train.y[:, None] == toy.test.y[None, :]
            sign = np.where(alike, 1.0, -1.0) if trees.classes else 1.0
            measure = partial(toy.estimate, "tree_similarity", leaf_power=power)
            yield compare(f"cosines, power {power:g}, {kind}", measure().values, sign * products / lengths, 1e-12)
            plainly = measure(cosine=False, signed=False).values
            yield compare(f"products, power {power:g}, {kind}", plainly, products, 1e-12)
