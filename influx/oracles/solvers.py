"""Curvature solvers against dense curvature written out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.dense import dense_matrix
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train

DECAY, DAMPING = 0.1, 2.0


def net(below: Path) -> Toy:
    """A small net that is not at its minimum."""
    return train(below, table(), MLP(width=3), SGD(lr=0.2, weight_decay=DECAY))


def parts(toy: Toy, curvature: str, damping: float) -> tuple[Array, Array, Array]:
    """Training gradients (n, p), test gradients (m, p) and the damped matrix (p, p)."""
    h = dense_matrix(toy, curvature)
    mine, theirs = (plain.gradients(toy, toy.module(), split) for split in (toy.train, toy.test))
    return mine, theirs, h + damping * np.eye(len(h))


def _solver(name: str, settings: dict[str, object], bound: float) -> Oracle:
    """A solver that can be made exact, with every curvature that is deterministic."""

    def oracle(below: Path) -> Iterator[Comparison]:
        toy = net(below)
        for curvature in ("ggn", "hessian", "fisher", "empirical_fisher"):
            mine, theirs, h = parts(toy, curvature, DAMPING)
            given = settings | {"curvature": curvature, "damping": DAMPING, "self_influence": True}
            found = toy.estimate(name, **given)
            solved = np.linalg.solve(h, np.concatenate([theirs, mine]).T)
            expected = mine @ solved[:, : len(theirs)] / len(mine)
            own = np.einsum("np,pn->n", mine, solved[:, len(theirs) :]) / len(mine)
            assert found.self_influence is not None
            what = f"{curvature}, {settings['solver']}" if "solver" in settings else curvature
            yield compare(f"dense {what}", found.values, expected, bound)
            yield compare(f"the same on itself, {what}", found.self_influence, own, bound)

    return oracle


def influence_functions(below: Path) -> Iterator[Comparison]:
    """Every exact solver."""
    for solver in ("auto", "exact", "cg"):
        yield from _solver("influence_functions", {"solver": solver}, 1e-6)(below)
    toy = net(below)
    found = toy.estimate("influence_functions", solver="identity")
    mine, theirs, _ = parts(toy, "ggn", 0.0)
    yield compare("gradient dot products over n", found.values, mine @ theirs.T / len(mine), 1e-12)


def relatif(below: Path) -> Iterator[Comparison]:
    """Each row divided by what removing its instance changes, by dense solves; the bounds of Cauchy and Schwarz."""
    toy = net(below)
    for curvature in ("ggn", "hessian"):
        mine, theirs, h = parts(toy, curvature, DAMPING)
        plain_values, solved = mine @ np.linalg.solve(h, theirs.T) / len(mine), np.linalg.solve(h, mine.T)
        squares = np.einsum("np,pn->n", mine, solved)
        divisors = {"theta": np.linalg.norm(solved, axis=0), "loss": np.sqrt(squares)}
        limits = {
            "theta": np.linalg.norm(theirs, axis=1),
            "loss": np.sqrt(np.einsum("mp,pm->m", theirs, np.linalg.solve(h, theirs.T))),
        }
        for constraint, divisor in divisors.items():
            found = toy.estimate("relatif", curvature=curvature, damping=DAMPING, constraint=constraint)
            assert found.self_influence is not None
            yield compare(f"dense {curvature}, {constraint}", found.values, plain_values / divisor[:, None], 1e-10)
            own = squares / len(mine) / divisor
            yield compare(f"the same on itself, {curvature}, {constraint}", found.self_influence, own, 1e-10)
            over = np.abs(found.values).max(axis=0) * len(mine) / limits[constraint]
            yield Comparison(f"Cauchy-Schwarz, {curvature}, {constraint}", float(max(over.max() - 1, 0)), 1e-12)
        own_loss = toy.estimate("relatif", curvature=curvature, damping=DAMPING, constraint="loss").self_influence
        assert own_loss is not None
        yield compare(f"an instance's own, {curvature}, loss", own_loss, np.sqrt(squares) / len(mine), 1e-10)


def renorm_if(below: Path) -> Iterator[Comparison]:
    """Dense influence over gradient norms of one backward pass per instance."""
    toy = net(below)
    for curvature in ("ggn", "hessian"):
        mine, theirs, h = parts(toy, curvature, DAMPING)
        norms = np.linalg.norm(mine, axis=1)
        expected = mine @ np.linalg.solve(h, theirs.T) / len(mine) / norms[:, None]
        found = toy.estimate("renorm_if", curvature=curvature, damping=DAMPING)
        yield compare(f"dense {curvature} over gradient norms", found.values, expected, 1e-10)


ORACLES: dict[str, Oracle] = {
    "if_cg": _solver("if_cg", {"tolerance": 1e-10}, 1e-9),
    "if_lissa": _solver("if_lissa", {"batch_size": 9, "depth": 300, "repeats": 1, "averaged": False}, 1e-10),
    "if_arnoldi": _solver("if_arnoldi", {"iterations": 10_000, "rank": 10_000, "negative": "keep"}, 1e-10),
    "influence_functions": influence_functions,
    "relatif": relatif,
    "renorm_if": renorm_if,
}
