"""Trees with fixed splits, leaf by leaf and instance by instance, for every installed library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from influx.oracles.comparison import Comparison, compare
from influx.oracles.groups_if import effects, written
from influx.oracles.plain import Array
from influx.oracles.tree_kernels import tree_similarity, trex
from influx.oracles.tree_loops import Trees, toys
from influx.oracles.tree_means import refitted as averaged

EXACT, DIFFERENCES = 1e-10, 1e-6
STEP = 1e-5


def leaf_refit(below: Path) -> Iterator[Comparison]:
    """Every leaf refitted by a loop, without each instance and without each group; averaged trees likewise."""
    for kind, toy, trees in toys(below):
        n = len(toy.train)
        found, (mine, theirs) = toy.estimate("leaf_refit"), trees.risks(np.ones(n))
        without = [trees.risks(1 - unit) for unit in np.eye(n)]
        values = np.array([on_test - theirs for _, on_test in without])
        yield compare(f"loop over leaves, {kind}", found.values, values, EXACT)
        own = np.array([on_train[i] - mine[i] for i, (on_train, _) in enumerate(without)])
        assert found.self_influence is not None
        yield compare(f"the same on itself, {kind}", found.self_influence, own, EXACT)
        members = np.array([toy.train.y > np.median(toy.train.y), np.arange(n) % 3 == 0])
        grouped = toy.estimate("leaf_refit", groups=written(below, toy, members))
        whole = np.array([trees.risks(1.0 - group)[1] - theirs for group in members])
        yield compare(f"without groups, {kind}", effects(grouped, len(members)), whole, EXACT)
        if kind.split(", ")[1] in ("hist_gradient_boosting", "gradient_boosting"):
            start = trees.risks(np.ones(n), True)[1]
            values = np.array([trees.risks(1 - unit, True)[1] - start for unit in np.eye(n)])
            refitted = toy.estimate("leaf_refit", refit_base=True).values
            yield compare(f"base value refitted too, {kind}", refitted, values, 1e-8)
    yield from averaged(below)


def leaf_influence(below: Path) -> Iterator[Comparison]:
    """Central differences of refits by the loop; the definition with other update sets."""
    for kind, toy, trees in toys(below):
        n = len(toy.train)
        found = toy.estimate("leaf_influence")
        pairs = [(trees.risks(1 + STEP * unit), trees.risks(1 - STEP * unit)) for unit in np.eye(n)]
        values = np.array([(less[1] - more[1]) / (2 * STEP) for more, less in pairs])
        own = np.array([(less[0][i] - more[0][i]) / (2 * STEP) for i, (more, less) in enumerate(pairs)])
        assert found.self_influence is not None
        yield compare(f"differences of refits, {kind}", found.values, values, DIFFERENCES)
        yield compare(f"the same on itself, {kind}", found.self_influence, own, DIFFERENCES)
        every = toy.estimate("leaf_influence", update_set="top_k", top_k=100).values
        yield compare(f"all leaves among the most moved, {kind}", every, found.values, EXACT)
        for name, given in {"single": {}, "top_k": {"top_k": 1}}.items():
            chosen = toy.estimate("leaf_influence", update_set=name, **given)
            values, own = _updated(trees, given.get("top_k", 0))
            assert chosen.self_influence is not None
            yield compare(f"{name} by its definition, {kind}", chosen.values, values, DIFFERENCES)
            yield compare(f"{name} on itself, {kind}", chosen.self_influence, own, DIFFERENCES)


def _updated(trees: Trees, top: int) -> tuple[Array, Array]:
    """Influence when a change reaches the instance's own margin and those in ``top`` leaves of each tree."""
    f = trees.forest
    n = len(f.train_y)
    rounds = list(trees.walk(np.ones(n), f.base))
    ends = [trees.slopes(margins, y)[0] for margins, y in zip(rounds[-1][1:], (f.train_y, f.test_y), strict=True)]
    values, own = np.zeros((n, len(f.test_y))), np.zeros(n)
    for i in range(n):
        moved, tests = np.zeros((n, f.outputs)), np.zeros((len(f.test_y), f.outputs))
        for t, margins, _ in rounds[:-1]:
            first, second = trees.bent(margins, moved)
            (g, h), before = trees.slopes(margins, f.train_y), moved.copy()
            for c in range(f.outputs):
                leaves = f.train_leaves[t, c]
                size = [np.float32(np.abs(before[leaves == leaf, c]).sum()) for leaf in range(f.sizes[t, c])]
                size = [found if found > 1e-12 * f.rate * f.factor else np.float32(0) for found in size]
                order = sorted(range(len(size)), key=lambda leaf: (-size[leaf], leaf != leaves[i], leaf))
                for leaf in range(f.sizes[t, c]):
                    members = np.flatnonzero(leaves == leaf)
                    counted = [j for j in members if leaf in order[:top] or j == i]
                    bottom = f.l2 + h[members, c].sum()
                    if f.fixed[t, c] or bottom <= 0:
                        continue
                    v = -g[members, c].sum() / bottom
                    change = sum(first[j, c] + v * second[j, c] for j in counted)
                    change += g[i, c] + v * h[i, c] if i in counted else 0.0
                    change *= -f.rate * f.factor / bottom
                    moved[counted, c] += change
                    tests[f.test_leaves[t, c] == leaf, c] += change
        values[i], own[i] = -(tests * ends[1]).sum(1), -(moved[i] * ends[0][i]).sum()
    return values, own


def boostin(below: Path) -> Iterator[Comparison]:
    """Differences of each leaf's value in each weight, times the test gradient of that round."""
    for kind, toy, trees in toys(below):
        f, n = trees.forest, len(toy.train)
        values, released, own = np.zeros((n, len(toy.test))), np.zeros((n, len(toy.test))), np.zeros(n)
        for t, mine, theirs in trees.trained():
            (g, h), (slope, _) = trees.slopes(mine, f.train_y), trees.slopes(theirs, f.test_y)
            for c in range(f.outputs):
                for i in range(n):
                    leaf, unit = int(f.train_leaves[t, c, i]), np.eye(n)[i]
                    more, less = (trees.leaf(t, c, leaf, 1 + sign * STEP * unit, g, h) for sign in (1, -1))
                    bent = (more - less) / (2 * STEP)
                    shared = f.test_leaves[t, c] == leaf
                    values[i, shared] -= bent * slope[shared, c]
                    own[i] -= bent * g[i, c]
                    members = f.train_leaves[t, c] == leaf
                    theta = trees.leaf(t, c, leaf, np.ones(n), g, h) / f.factor
                    bottom = h[members, c].sum() + f.l2
                    if not f.fixed[t, c] and bottom > 0:
                        step = f.rate * f.factor * (g[i, c] + theta * h[i, c]) / bottom
                        released[i, shared] += step * slope[shared, c]
        found = toy.estimate("boostin")
        assert found.self_influence is not None
        yield compare(f"differences of leaves, {kind}", found.values, values, DIFFERENCES)
        yield compare(f"the same on itself, {kind}", found.self_influence, own, DIFFERENCES)
        other = toy.estimate("boostin", leaf_value="released").values
        yield compare(f"leaf values that include the rate, {kind}", other, released, EXACT)


ORACLES = {
    "boostin": boostin,
    "leaf_influence": leaf_influence,
    "leaf_refit": leaf_refit,
    "tree_similarity": tree_similarity,
    "trex": trex,
}
