"""Linear models: refits one at a time by numpy's normal equations or Newton's method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from influx.learners.linear.logistic import Logistic
from influx.learners.linear.ridge import Ridge
from influx.oracles import plain
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, bundled, learned
from influx.problem import Split
from influx.streams import stream

DECAY = 0.1
EXACT = 1e-9
Theta = Array  # (outputs, q): for classes one row each
Refit = Callable[[Array, float], Theta]  # weights and divisor -> parameters


def ridge(below: Path) -> tuple[Toy, Refit]:
    """Ridge regression on the diabetes data, intercept free."""
    toy = learned(below, bundled("diabetes", 40, 6), Ridge(weight_decay=DECAY))
    x, y = plain.with_ones(toy.train.x), toy.train.y.astype(np.float64)
    penalty = DECAY * np.diag([1.0] * (x.shape[1] - 1) + [0.0])

    def refit(weights: Array, divisor: float) -> Theta:
        normal = (x * weights[:, None]).T @ x / divisor + penalty
        return np.asarray(np.linalg.solve(normal, x.T @ (weights * y) / divisor)[None])

    return toy, refit


def logistic(below: Path, which: str = "iris") -> tuple[Toy, Refit]:
    """Softmax regression, intercepts penalised; the sums of classes are 0 at its optimum."""
    toy = learned(below, bundled(which, 30, 6), Logistic(weight_decay=DECAY, penalise_intercept=True))
    x, classes = plain.with_ones(toy.train.x), len(toy.problem.data.classes)
    start = np.zeros((classes, x.shape[1]))

    def refit(weights: Array, divisor: float) -> Theta:
        return plain.softmax_refit(x, toy.train.y, weights * len(x) / divisor, DECAY, start)

    return toy, refit


PROBLEMS: dict[str, Callable[[Path], tuple[Toy, Refit]]] = {
    "ridge": ridge,
    "softmax regression": logistic,
    "two classes": lambda below: logistic(below, "breast_cancer"),
}


def losses(toy: Toy, split: Split, theta: Theta) -> Array:
    """Risk of each instance ``(n,)``."""
    x = plain.with_ones(split.x)
    if toy.task == "classification":
        return plain.softmax_losses(x, split.y, theta)
    return np.asarray(0.5 * (x @ theta[0] - split.y) ** 2)


def deleted(refit: Refit, n: int) -> list[Theta]:
    """Parameters without each instance, whose place in the divisor stays."""
    return [refit(1 - unit, n) for unit in np.eye(n)]


def fisher(toy: Toy, theta: Theta) -> Array:
    """Hessian of the sum of the risks; XᵀX for squared error."""
    x = plain.with_ones(toy.train.x)
    if toy.task == "regression":
        return np.asarray(x.T @ x)
    return plain.softmax_hessian(x, theta, np.ones(len(x)), 0.0) * len(x)


def cooks_distance(below: Path) -> Iterator[Comparison]:
    """Parameters and losses of n refits; a Newton step written out."""
    for kind, problem in PROBLEMS.items():
        toy, refit = problem(below)
        n, found = len(toy.train), toy.estimate("cooks_distance")
        theta = refit(np.ones(n), n)
        without = deleted(refit, n)
        values = np.stack([losses(toy, toy.test, t) for t in without]) - losses(toy, toy.test, theta)
        own = np.array([(losses(toy, toy.train, t) - losses(toy, toy.train, theta))[i] for i, t in enumerate(without)])
        shifts = np.stack([(theta - t).ravel() for t in without])
        assert found.self_influence is not None
        yield compare(f"losses of {n} refits, {kind}", found.values, values, EXACT)
        yield compare(f"the same on itself, {kind}", found.self_influence, own, EXACT)
        table = found.tables["parameter_shifts"].drop(columns="train_id").to_numpy()
        yield compare(f"parameters of {n} refits, {kind}", table, shifts, EXACT)
        distance = np.einsum("ip,pq,iq->i", shifts, fisher(toy, theta), shifts)
        if kind == "ridge":
            x = plain.with_ones(toy.train.x)
            distance *= (n - x.shape[1]) / np.square(x @ theta[0] - toy.train.y).sum()
        free = theta.size - (theta.shape[1] if toy.task == "classification" else 0)  # a sum over classes is 0
        yield compare(f"distance, {kind}", found.tables["cooks_distance"]["distance"], distance / free, EXACT)
        if toy.task == "classification":
            step = toy.estimate("cooks_distance", variant="one_step").values
            yield compare(f"one Newton step written out, {kind}", step, _newton(toy, theta), EXACT)


def _newton(toy: Toy, theta: Theta) -> Array:
    """Change of test losses after one Newton step on the objective without each instance."""
    x, n = plain.with_ones(toy.train.x), len(toy.train)
    off = plain.softmax(x @ theta.T) - np.eye(len(theta))[toy.train.y]
    rows = []
    for unit in np.eye(n):
        gradient = (off * (1 - unit)[:, None]).T @ x / n + DECAY * theta
        step = np.linalg.solve(plain.softmax_hessian(x, theta, 1 - unit, DECAY), gradient.ravel())
        rows.append(losses(toy, toy.test, theta - step.reshape(theta.shape)))
    return np.stack(rows) - losses(toy, toy.test, theta)


def influence_sketching(below: Path) -> Iterator[Comparison]:
    """With all directions kept the sketch is no approximation: one Newton step, or a refit."""
    for kind, problem in PROBLEMS.items():
        toy, refit = problem(below)
        n, theta = len(toy.train), refit(np.ones(len(toy.train)), len(toy.train))
        if toy.task == "classification":
            expected = _newton(toy, theta)
        else:
            expected = np.stack([losses(toy, toy.test, t) for t in deleted(refit, n)]) - losses(toy, toy.test, theta)
        for sketch in ("orthogonal", "gaussian"):
            found = toy.estimate("influence_sketching", sketch=sketch, lam=None).values
            yield compare(f"{sketch} sketch of all inputs, {kind}", found, expected, EXACT)
        several = toy.estimate("influence_sketching", lam=None, n_sketches=3)
        assert several.stderr is not None
        yield compare(f"no spread between rotations, {kind}", several.stderr, 0 * expected, 1e-10)
        if kind != "softmax regression":
            yield from _few(toy, kind, theta)
    yield from _leverage(below)


def _few(toy: Toy, kind: str, theta: Theta) -> Iterator[Comparison]:
    """Two sketches of four dimensions, one instance after the other."""
    x, x_test = plain.with_ones(toy.train.x), plain.with_ones(toy.test.x)
    binary, weights, (n, inputs), k = len(theta) == 2, theta[0] - theta[-1], x.shape, 4
    if not binary:
        weights = theta[0]
    target = (toy.train.y == 0 if binary else toy.train.y).astype(np.float64)
    mean = 1 / (1 + np.exp(-x @ weights)) if binary else x @ weights
    v = mean * (1 - mean) if binary else np.ones(n)
    for sketch in ("gaussian", "sparse", "orthogonal"):
        draws, values, scores = stream(toy.problem.seed, "influence_sketching/sketch"), [], []
        for _ in range(2):
            omega = _directions(sketch, inputs, k, draws)
            s, s_test = x @ omega, x_test @ omega
            normal = (s * v[:, None]).T @ s
            normal += 0.01 * np.trace(normal) / k * np.eye(k)
            rows = []
            for i in range(n):
                without = np.linalg.inv(normal - v[i] * np.outer(s[i], s[i]))
                shift = -without @ s[i] * (mean[i] - target[i])
                rows.append(_risk(toy, x_test @ weights - s_test @ shift, binary))
            h = np.einsum("nk,kl,nl->n", s, np.linalg.inv(normal), s)
            values.append(np.stack(rows) - _risk(toy, x_test @ weights, binary))
            scores.append((mean - target) ** 2 * h / (1 - v * h) ** 2)
        found = toy.estimate("influence_sketching", sketch=sketch, k=k, lam=0.01, n_sketches=2)
        assert found.stderr is not None
        table, label = found.tables["sketched_cooks"], f"{sketch} sketches of {k} dimensions, {kind}"
        yield compare(f"{label}: mean", found.values, (values[0] + values[1]) / 2, EXACT)
        yield compare(f"{label}: standard error", found.stderr, np.abs(values[0] - values[1]) / 2, EXACT)
        yield compare(f"{label}: score", table["score"], (scores[0] + scores[1]) / 2, EXACT)
        yield compare(f"{label}: its deviation", table["sd"], np.abs(scores[0] - scores[1]) / 2**0.5, EXACT)


def _risk(toy: Toy, outputs: Array, binary: bool) -> Array:
    """Risk of each test instance, from its value or its logit of the first of two classes."""
    if binary:
        return np.asarray(np.log1p(np.exp(np.where(toy.test.y == 0, -outputs, outputs))))
    return np.asarray(0.5 * (outputs - toy.test.y) ** 2)


def _directions(sketch: str, inputs: int, k: int, draws: np.random.Generator) -> Array:
    if sketch == "sparse":
        return np.asarray(draws.choice([-1.0, 0.0, 1.0], (inputs, k), p=[1 / 6, 2 / 3, 1 / 6]) * (3 / k) ** 0.5)
    normal = draws.normal(size=(inputs, k))
    return np.asarray(normal / k**0.5 if sketch == "gaussian" else np.linalg.qr(normal)[0] * (inputs / k) ** 0.5)


def _leverage(below: Path) -> Iterator[Comparison]:
    """Score and leverage of ridge: r² h / (1 - h)² with h from the inverse of XᵀX + n penalty."""
    toy, refit = ridge(below)
    x, n = plain.with_ones(toy.train.x), len(toy.train)
    penalty = n * DECAY * np.diag([1.0] * (x.shape[1] - 1) + [0.0])
    h = np.diag(x @ np.linalg.inv(x.T @ x + penalty) @ x.T)
    off = x @ refit(np.ones(n), n)[0] - toy.train.y
    table = toy.estimate("influence_sketching", lam=None).tables["sketched_cooks"]
    yield compare("leverage", table["leverage"], h, EXACT)
    yield compare("score", table["score"], off**2 * h / (1 - h) ** 2, EXACT)


ORACLES = {"cooks_distance": cooks_distance, "influence_sketching": influence_sketching}
