"""Influence functions of groups, and of candidates, by dense curvature and refits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from influx.influence import Influence
from influx.models.linear import Linear
from influx.oracles import plain
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.dense import dense_matrix, parameters
from influx.oracles.plain import Array
from influx.oracles.solvers import DAMPING, net, parts
from influx.oracles.toys import Toy, bundled, converged

DECAY = 0.1
SHARES = (0.1, 0.25, 0.5)


def ridge(below: Path) -> Toy:
    """Ridge regression on the diabetes data at its optimum."""
    return converged(below, bundled("diabetes", 60, 8), Linear(), DECAY)


def members(n: int, shares: tuple[float, ...] = SHARES) -> Array:
    """``(groups, n)`` 1 for the instances of random groups that hold these shares of n, else 0."""
    rng = np.random.default_rng(0)
    found = np.zeros((len(shares), n))
    for row, share in zip(found, shares, strict=True):
        row[rng.permutation(n)[: max(1, round(share * n))]] = 1
    return found


def written(below: Path, toy: Toy, groups: Array) -> str:
    """A file that names the groups ``groups`` (groups, n) by number."""
    path = below / "groups.csv"
    pairs = [(toy.train.ids[i], number) for number, row in enumerate(groups) for i in np.flatnonzero(row)]
    path.write_text("train_id,group\n" + "".join(f"{i},group {g}\n" for i, g in pairs), encoding="utf-8")
    return str(path)


def effects(found: Influence, groups: int) -> Array:
    """``(groups, m)`` of table group_influence."""
    return np.asarray(found.tables["group_influence"]["influence"].to_numpy().reshape(groups, -1))


def shared(what: str, found: Influence, groups: Array, expected: Array, bound: float) -> Comparison:
    """The (n, m) values against equal shares of the effects (groups, m) of an instance's groups."""
    somewhere = groups.sum(axis=0) > 0
    shares = (groups / groups.sum(axis=1, keepdims=True)).T @ expected
    if not np.isnan(found.values[~somewhere]).all():
        return Comparison(f"instances of no group, {what}", np.inf, bound)
    return compare(f"equal shares, {what}", found.values[somewhere], shares[somewhere], bound)


def of_group(toy: Toy, row: Array, curvature: str) -> Array:
    """``(p, p)`` mean curvature of the instances that ``row`` marks, weight decay included."""
    some = toy.train.take(np.flatnonzero(row))
    data = replace(toy.problem.data, train=some)
    return dense_matrix(replace(toy, problem=replace(toy.problem, data=data)), curvature)


def shifts(toy: Toy, values: Array) -> Array:
    """Change of the test predictions of least squares that influence (groups, m) stands for, to first order in it."""
    x, y = plain.with_ones(toy.test.x), toy.test.y.astype(np.float64)
    return np.asarray(values / (x @ _theta(toy) - y))


def refitted(toy: Toy, weights: Array) -> Array:
    """Change of the test predictions (m,) of the ridge regression refitted with instance weights; the sum is over n."""
    x, y = plain.with_ones(toy.train.x), toy.train.y.astype(np.float64)
    theta = plain.ridge(x, y, weights, DECAY, len(x))
    return np.asarray(plain.with_ones(toy.test.x) @ (theta - _theta(toy)))


def _theta(toy: Toy) -> Array:
    """Weights, then the intercept, as ``plain.with_ones`` has columns."""
    return parameters(toy)


def group_if(below: Path) -> Iterator[Comparison]:
    """Dense solves for sums of gradients, and with dense matrices that lack a group; ridge refits."""
    toy = net(below)
    n = len(toy.train)
    groups = members(n, (0.2, 0.5, 0.9))
    file = written(below, toy, groups)
    for curvature in ("ggn", "hessian", "empirical_fisher"):
        mine, theirs, h = parts(toy, curvature, DAMPING)
        sums = groups @ mine
        rest = [h - row.mean() * (of_group(toy, row, curvature) - DECAY * np.eye(len(h))) for row in groups]
        newton = np.stack([theirs @ np.linalg.solve(a, s) / n for a, s in zip(rest, sums, strict=True)])
        for solver, bound in (("exact", 1e-10), ("cg", 1e-5)):
            settings = {"groups": file, "curvature": curvature, "damping": DAMPING, "solver": solver}
            found = toy.estimate("group_if", **settings)
            expected = sums @ np.linalg.solve(h, theirs.T) / n
            yield compare(f"dense {curvature}, {solver}", effects(found, 3), expected, bound)
            yield shared(f"{curvature}, {solver}", found, groups, expected, bound)
            found = toy.estimate("group_if", newton=True, **settings)
            yield compare(f"dense {curvature} without the group, {solver}", effects(found, 3), newton, bound)
    toy = ridge(below)
    groups = members(len(toy.train))
    found = toy.estimate("group_if", newton=True, groups=written(below, toy, groups), damping=0.0)
    expected = np.stack([refitted(toy, 1 - row) for row in groups])
    yield compare("ridge refitted without 10, 25, 50 %", shifts(toy, effects(found, 3)), expected, 1e-9)


def second_order_if(below: Path) -> Iterator[Comparison]:
    """Two terms of the series of (A - E)⁻¹ around A⁻¹, from dense matrices of the objective without the group."""
    for name, toy, damping in (("ridge", ridge(below), 0.0), ("net", net(below), DAMPING)):
        n = len(toy.train)
        groups = members(n)
        file = written(below, toy, groups)
        for curvature, again in (("ggn", True), ("ggn", False), ("hessian", True), ("hessian", False)):
            dense = "hessian" if name == "ridge" else curvature  # the same for least squares
            mine, theirs, a = parts(toy, dense, damping)
            expected: dict[int, list[Array]] = {1: [], 2: []}
            for row in groups:
                after = of_group(toy, 1 - row, dense) + damping * np.eye(len(a))
                moved = row @ mine / n
                if again:
                    moved = (row @ mine + row.sum() * DECAY * parameters(toy)) / (n - row.sum())
                else:  # the others' weights are what they were: their mean falls, the regulariser stays
                    left, shift = 1 - row.mean(), (DECAY + damping) * np.eye(len(a))
                    after = left * (after - shift) + shift
                first = np.linalg.solve(a, moved)
                second = first + np.linalg.solve(a, (a - after) @ first)
                expected[1].append(theirs @ first)
                expected[2].append(theirs @ second)
            for order in (1, 2):
                settings = {"curvature": curvature, "damping": damping, "renormalise": again, "order": order}
                found = toy.estimate("second_order_if", groups=file, **settings)
                what = f"{name}, dense {curvature}, order {order}, {'renormalised' if again else 'in place'}"
                yield compare(what, effects(found, len(groups)), np.stack(expected[order]), 1e-10)
                yield shared(what, found, groups, np.stack(expected[order]), 1e-10)
    yield from _gradient(ridge(below))


def _gradient(toy: Toy) -> Iterator[Comparison]:
    """At the optimum the first right-hand side is minus the gradient of the objective without the group."""
    mine, n = plain.gradients(toy, toy.module(), toy.train), len(toy.train)
    theta = parameters(toy)
    for row in members(n):
        without = ((1 - row) @ mine) / (n - row.sum()) + DECAY * theta
        moved = (row @ mine + row.sum() * DECAY * theta) / (n - row.sum())
        yield compare(f"gradient without {row.mean():.0%}", -without, moved, 1e-8)


def fast_if(below: Path) -> Iterator[Comparison]:
    """Dense influence, on candidates by distances of features one by one."""
    toy = net(below)
    module = toy.module()
    mine, theirs = (plain.features(module, toy.tensors(split)[0]) for split in (toy.train, toy.test))
    distances = np.stack([[np.linalg.norm(a - b) for b in theirs] for a in mine])
    for curvature in ("ggn", "hessian"):
        left, right, h = parts(toy, curvature, DAMPING)
        expected = left @ np.linalg.solve(h, right.T) / len(left)
        for count in (1, 3, len(left)):
            near = distances.argsort(axis=0).argsort(axis=0) < count
            settings = {"candidates": count, "curvature": curvature, "damping": DAMPING, "solver": "exact"}
            found = toy.estimate("fast_if", **settings)
            wrong = float((np.isnan(found.values) == near).mean())
            yield Comparison(f"{count} nearest by features, {curvature}", wrong, 0.0)
            yield compare(f"dense {curvature} at the {count} nearest", found.values[near], expected[near], 1e-10)
            biggest = np.abs(expected).argsort(axis=0)[::-1][:count]
            recall = float(np.take_along_axis(near, biggest, axis=0).mean())
            yield compare(f"recall of {count}, {curvature}", found.report["recall"], recall, 1e-12)


ORACLES: dict[str, Oracle] = {"group_if": group_if, "second_order_if": second_order_if, "fast_if": fast_if}
