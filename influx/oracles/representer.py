"""Representers from refits of the last layer that share nothing with the engines: one coordinate or step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.comparison import Comparison, compare
from influx.oracles.last_layer import head_decay, head_hessian, head_of
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, converged, table, train
from influx.problem import Split

PENALTY = 0.02
TASKS = ("classification", "regression")


def _toy(below: Path, task: str) -> Toy:
    return train(below, table(task), MLP(width=4), SGD(lr=0.2))  # type: ignore[arg-type]


def _features(toy: Toy, split: Split, bias: str) -> Array:
    found = plain.features(toy.module(), toy.tensors(split)[0])
    return found if bias == "none" else plain.with_ones(found)


def _targets(toy: Toy, targets: str) -> Array:
    if targets == "model_probs":
        with torch.no_grad():
            outputs = np.asarray(toy.module()(toy.tensors(toy.train)[0]).numpy())
        return plain.softmax(outputs) if toy.task == "classification" else outputs
    if toy.task == "classification":
        return np.asarray(np.eye(len(toy.problem.data.classes))[toy.train.y])
    return np.asarray(toy.train.y, np.float64)[:, None]


def _mean(toy: Toy, outputs: Array) -> Array:
    return plain.softmax(outputs) if toy.task == "classification" else outputs


def _newton(toy: Toy, f: Array, t: Array, penalty: Array) -> Array:
    """``(C, q)`` minimiser with a squared penalty per column, by pseudo-inverses of the whole Hessian."""
    theta = np.zeros((t.shape[1], f.shape[1]))
    for step in range(300):
        p = _mean(toy, f @ theta.T)
        gradient = (p - t).T @ f / len(f) + penalty * theta
        h = np.zeros((theta.size, theta.size))
        for row, q in zip(f, p, strict=True):
            bent = np.diag(q) - np.outer(q, q) if toy.task == "classification" else np.eye(1)
            h += np.kron(bent, np.outer(row, row)) / len(f)
        move = np.linalg.pinv(h + np.diag(np.tile(penalty, len(theta))), rcond=1e-13) @ gradient.ravel()
        theta -= (0.5 if step < 40 and toy.task == "classification" else 1.0) * move.reshape(theta.shape)
        if np.abs(move).max() < 1e-15 * np.abs(theta).max():
            break
    return theta


def _pairs(toy: Toy, alpha: Array, f: Array, g: Array, outputs: Array, kernel: Callable[..., float]) -> Array:
    """Values (n, m), one pair at a time; ``kernel`` takes α_i, f_i, f_j and the number of the output."""
    values = np.empty((len(f), len(g)))
    for j in range(len(g)):
        which = int(toy.test.y[j]) if toy.task == "classification" else 0
        sign = 1.0 if toy.task == "classification" or toy.test.y[j] >= outputs[j, 0] else -1.0
        for i in range(len(f)):
            values[i, j] = sign * kernel(alpha[i], f[i], g[j], which)
    return values


def _dot(alpha: Array, left: Array, right: Array, which: int) -> float:
    return float(alpha[which] * (left @ right))


def _refits(toy: Toy, bias: str, targets: str) -> tuple[Array, Array, Array, Array]:
    """α, the features that are decomposed, and test outputs."""
    f, g = (_features(toy, split, bias) for split in (toy.train, toy.test))
    t, penalty = _targets(toy, targets), np.full(f.shape[1], PENALTY)
    if bias == "free":
        penalty[-1] = 0.0
    theta = _newton(toy, f, t, penalty)
    alpha = -(_mean(toy, f @ theta.T) - t) / (PENALTY * len(f))
    seen = slice(None, -1) if bias == "free" else slice(None)
    return alpha, f[:, seen], g[:, seen], g @ theta.T


def representer_point(below: Path) -> Iterator[Comparison]:
    """A refit by plain Newton steps, its coefficients, and products of features pair by pair."""
    for task in TASKS:
        toy = _toy(below, task)
        for bias in ("augment", "free", "none"):
            for targets in ("labels", "model_probs"):
                expected = _pairs(toy, *_refits(toy, bias, targets), _dot)
                found = toy.estimate("representer_point", penalty=PENALTY, bias=bias, targets=targets)
                yield compare(f"refit, {task}, bias {bias}, {targets}", found.values, expected, 1e-8)


def renorm_representer(below: Path) -> Iterator[Comparison]:
    """The same with coefficients divided by their length or turned to signs."""
    for task in TASKS:
        toy = _toy(below, task)
        alpha, f, g, outputs = _refits(toy, "augment", "labels")
        for norm in ("l2", "sign"):
            unit = np.array([(np.sign(a) if norm == "sign" else a) for a in alpha])
            unit = np.array([a / np.sqrt(a @ a) for a in unit])
            given = {"penalty": PENALTY, "norm": norm}
            found = toy.estimate("renorm_representer", **given).values
            yield compare(f"unit {norm}, {task}", found, _pairs(toy, unit, f, g, outputs, _dot), 1e-8)
            cosines = [np.array([row / np.sqrt(row @ row) for row in side]) for side in (f, g)]
            found = toy.estimate("renorm_representer", **given, normalise_features=True).values
            expected = _pairs(toy, unit, cosines[0], cosines[1], outputs, _dot)
            yield compare(f"unit {norm} and cosines, {task}", found, expected, 1e-8)


def _two_classes(below: Path) -> Toy:
    """The last two classes count as one: with two, the optimum of an l1 norm is not unique."""
    data = table(n_train=14, n_test=5)
    train_, test = (replace(s, y=np.minimum(s.y, 1)) for s in (data.train, data.test))
    return train(below, replace(data, train=train_, test=test, classes=("a", "b")), MLP(width=4), SGD(lr=0.2))


def _coordinates(toy: Toy, f: Array, t: Array, penalty: float) -> Array:
    """Minimiser with an l1 norm, one coordinate after the other, each by a step that cannot overshoot."""
    theta, outputs = np.zeros((t.shape[1], f.shape[1])), np.zeros(t.shape)
    bound = (0.25 if toy.task == "classification" else 1.0) * (f**2).mean(axis=0)
    for _ in range(6000):
        largest = 0.0
        for a in range(len(theta)):
            for k in range(f.shape[1]):
                slope = (_mean(toy, outputs) - t)[:, a] @ f[:, k] / len(f)
                aim = theta[a, k] - slope / bound[k]
                new = np.sign(aim) * max(abs(aim) - penalty / bound[k], 0.0)
                change, theta[a, k] = new - theta[a, k], new
                if change:
                    outputs[:, a] += change * f[:, k]
                    largest = max(largest, abs(change))
        if largest < 1e-13:
            break
    if toy.task == "regression":
        return theta
    return np.asarray(theta - np.median(theta, axis=0))  # which risk and norm do not see; numpy takes the midpoint


def representer_l1(below: Path) -> Iterator[Comparison]:
    """Coordinate descent, and the weighted products of features pair by pair."""
    toys = {task: _toy(below, task) for task in TASKS} | {"two classes": _two_classes(below)}
    for task, toy in toys.items():
        for bias, targets in (("augment", "labels"), ("none", "model_probs")):
            f, g = (_features(toy, split, bias) for split in (toy.train, toy.test))
            t = _targets(toy, targets)
            share = 0.2
            penalty = share * np.abs((_mean(toy, np.zeros(t.shape)) - t).T @ f / len(f)).max()
            theta = _coordinates(toy, f, t, penalty)
            alpha = -(_mean(toy, f @ theta.T) - t) / (penalty * len(f))

            def kernel(a: Array, left: Array, right: Array, which: int, weights: Array = theta) -> float:
                return float(a[which] * (np.abs(weights[which]) * left) @ right)

            expected = _pairs(toy, alpha, f, g, g @ theta.T, kernel)
            found = toy.estimate("representer_l1", penalty_share=share, bias=bias, targets=targets).values
            yield compare(f"coordinate descent, {task}, bias {bias}, {targets}", found, expected, 1e-8)
            found = toy.estimate("representer_l1", penalty=penalty, bias=bias, targets=targets).values
            yield compare(f"the same λ as a number, {task}, bias {bias}, {targets}", found, expected, 1e-8)


def _thresholds(toy: Toy, f: Array, t: Array, penalty: float) -> Array:
    """Minimiser with a nuclear norm, by proximal gradient steps without any acceleration."""
    theta = np.zeros((t.shape[1], f.shape[1]))
    bound = (0.5 if toy.task == "classification" else 1.0) * np.linalg.eigvalsh(f.T @ f / len(f))[-1]
    for _ in range(20000):
        aim = theta - (_mean(toy, f @ theta.T) - t).T @ f / (len(f) * bound)
        u, s, vt = np.linalg.svd(aim, full_matrices=False)
        new = (u * np.maximum(s - penalty / bound, 0)) @ vt
        change, theta = np.abs(new - theta).max(), new
        if change < 1e-15:
            break
    return theta


def representer_nuclear(below: Path) -> Iterator[Comparison]:
    """Proximal steps, and the kernels' matrices written out."""
    for task in TASKS:
        toy = _toy(below, task)
        f, g = (_features(toy, split, "augment") for split in (toy.train, toy.test))
        t, share = _targets(toy, "labels"), 0.25
        penalty = share * float(np.linalg.norm((_mean(toy, np.zeros(t.shape)) - t).T @ f / len(f), 2))
        theta = _thresholds(toy, f, t, penalty)
        alpha = -(_mean(toy, f @ theta.T) - t) / (penalty * len(f))
        outer, inner = _root(theta @ theta.T), _root(theta.T @ theta)
        both = (_root(outer), _root(inner))
        kernels = {"left": (outer, np.eye(len(inner))), "right": (np.eye(len(outer)), inner), "half": both}
        expected = {}
        for name, (left, right) in kernels.items():

            def kernel(a: Array, x: Array, y: Array, which: int, left: Array = left, right: Array = right) -> float:
                return float((left @ a)[which] * (x @ right @ y))

            expected[name] = _pairs(toy, alpha, f, g, g @ theta.T, kernel)
        expected["average"] = (expected["left"] + expected["right"]) / 2
        for name, values in expected.items():
            found = toy.estimate("representer_nuclear", kernel=name, penalty_share=share).values
            yield compare(f"proximal steps, {task}, kernel {name}", found, values, 1e-7)


def _root(matrix: Array) -> Array:
    """Square root of a positive semi-definite matrix; what is zero up to rounding is zero."""
    values, vectors = np.linalg.eigh(matrix)
    kept = np.where(values > 1e-10 * values.max(), values, 0.0)
    return np.asarray((vectors * np.sqrt(kept)) @ vectors.T)


def rps_lje(below: Path) -> Iterator[Comparison]:
    """The step taken in the module itself, its Hessian by autograd, and one solve per training instance."""
    for task in TASKS:
        optimizer = SGD(lr=0.2, weight_decay=0.05, decay_on="weights")
        toy = train(below, table(task), MLP(width=4), optimizer)  # type: ignore[arg-type]
        for damping in (0.2, None):
            found = toy.estimate("rps_lje", lr=0.1, damping=damping)
            values, own = _expansion(toy, 0.1, damping)
            assert found.self_influence is not None
            yield compare(f"dense by autograd, {task}, damping {damping}", found.values, values, 1e-8)
            yield compare(f"the same on itself, {task}, damping {damping}", found.self_influence, own, 1e-8)
    toy = converged(below, table(), MLP(width=4), 0.1, epochs=3000)
    off = [_off(toy, lr) for lr in (0.2, 0.1)]
    yield Comparison(
        "half the step, a quarter of the error (distance of the ratio from 4)", abs(off[0] / off[1] - 4), 0.2
    )


def _off(toy: Toy, lr: float) -> float:
    with torch.no_grad():
        logits = toy.module()(toy.tensors(toy.test)[0]).numpy()
    total = toy.estimate("rps_lje", lr=lr, damping=0.0).values.sum(axis=0)
    return float(np.abs(total - logits[np.arange(len(total)), toy.test.y]).max())


def _expansion(toy: Toy, lr: float, damping: float | None) -> tuple[Array, Array]:
    """Values (n, m), and on itself (n,) without the part that is the same for all."""
    module = toy.module()
    before = [module(toy.tensors(split)[0]).detach().numpy() for split in (toy.train, toy.test)]
    params = list(head_of(module).parameters())
    decay = head_decay(toy, module)
    ascent = plain.gradients(toy, module, toy.train, params).mean(axis=0)
    with torch.no_grad():
        for p, piece in zip(params, np.split(ascent, np.cumsum([p.numel() for p in params])[:-1]), strict=True):
            p.add_(torch.from_numpy(piece).view_as(p), alpha=lr)
    theta = torch.cat([p.detach().flatten() for p in params]).numpy()
    h = head_hessian(toy, module)
    added = 1e-4 * float(np.trace(h)) / len(h) if damping is None else damping
    h[np.diag_indices(len(h))] += added
    rows = plain.gradients(toy, module, toy.train, params)
    n = len(rows)
    shares = [theta / n - np.linalg.solve(h, g + decay * theta) / n for g in rows]
    mine, theirs = (_logit_rows(toy, s, out) for s, out in zip((toy.train, toy.test), before, strict=True))
    own = np.array([-(row @ np.linalg.solve(h, g)) / n for row, g in zip(mine, rows, strict=True)])
    return np.array([[share @ row for row in theirs] for share in shares]), own


def _logit_rows(toy: Toy, split: Split, outputs: Array) -> Array:
    """Derivatives (k, p) of the explained values in the head's weight and bias, with the sign of a regression."""
    f = plain.features(toy.module(), toy.tensors(split)[0])
    rows = []
    for i in range(len(f)):
        unit = np.zeros(outputs.shape[1])
        if toy.task == "classification":
            unit[int(split.y[i])] = 1.0
        else:
            unit[0] = 1.0 if split.y[i] >= outputs[i, 0] else -1.0
        rows.append(np.concatenate([np.outer(unit, f[i]).ravel(), unit]))
    return np.stack(rows)


ORACLES = {
    "renorm_representer": renorm_representer,
    "representer_l1": representer_l1,
    "representer_nuclear": representer_nuclear,
    "representer_point": representer_point,
    "rps_lje": rps_lje,
}
