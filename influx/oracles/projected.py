"""Projected methods, with matrices written out and instances one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from influx.learners.torch.optimizers import Adam
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import dense, plain
from influx.oracles.checkpoints import LOOP, checkpoint_weights, cosine, toys
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.low_rank import SOLVED, array, logra
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, converged, table, train
from influx.oracles.trajectory import projection
from influx.problem import Split
from influx.streams import stream, stream_seed

Of = Callable[[Tensor, Tensor], Tensor]  # outputs (1, c) and target (1,) -> number
OUTPUTS: dict[str, Of] = {
    "square": lambda outputs, y: outputs.square().mean(),
    "mean": lambda outputs, y: outputs.mean(),
    "l1": lambda outputs, y: outputs.abs().mean(),
    "l2": lambda outputs, y: outputs.square().sum().sqrt(),
    "linf": lambda outputs, y: outputs.abs().max(),
    "weighted_mse": lambda outputs, y: (outputs[0] - torch.eye(outputs.shape[1])[y[0]]).square().mean(),
}


def margin(toy: Toy) -> Of:
    """Log p_y / (1 - p_y), or minus the absolute error."""
    if toy.task == "regression":
        return lambda outputs, y: -(outputs[0, 0] - y[0]).abs()

    def of(outputs: Tensor, y: Tensor) -> Tensor:
        p = torch.softmax(outputs[0], 0)[y[0]]
        return torch.log(p) - torch.log(1 - p)

    return of


def gradients(toy: Toy, module: nn.Module, split: Split, of: Of) -> Array:
    """``(n, p)``, one backward pass per instance."""
    x, y = toy.tensors(split)
    rows = []
    for i in range(len(x)):
        found = torch.autograd.grad(of(module(x[i : i + 1]), y[i : i + 1]), list(module.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]).numpy())
    return np.stack(rows)


def slopes(toy: Toy, module: nn.Module, split: Split) -> Array:
    """``(n,)`` 1 - p_y, or the absolute error."""
    x, y = toy.tensors(split)
    with torch.no_grad():
        outputs = module(x)
    if toy.task == "regression":
        return np.asarray((outputs[:, 0] - y).abs().numpy())
    return np.asarray(1 - plain.softmax(outputs.numpy())[np.arange(len(y)), y.numpy()])


def regression(mine: Array, theirs: Array, damping: float, weights: Array | None = None) -> Array:
    """``(n, m)`` φ_iᵀ (Σ w φ φᵀ + λI)⁻¹ φ_j with the (p, p) matrix."""
    scaled = mine if weights is None else mine * weights[:, None]
    return np.asarray(mine @ np.linalg.solve(scaled.T @ mine + damping * np.eye(mine.shape[1]), theirs.T))


def sparse(toy: Toy, step: int, dim: int) -> Array:
    """The count sketch (D, p) as documented; p must fit in one piece."""
    seed = int(stream(toy.problem.seed, f"draws/projection/{step}").integers(1 << 63))
    own = torch.Generator().manual_seed(stream_seed(seed, "0"))
    size = sum(p.numel() for p in toy.module().parameters())
    turns = torch.randint(dim, (-(-size // dim),), generator=own).tolist()
    signs = 2 * torch.empty(size).random_(2, generator=own) - 1
    matrix = np.zeros((dim, size))
    for j in range(size):
        matrix[(j % dim + turns[j // dim]) % dim, j] = float(signs[j])
    return matrix


def _both(toy: Toy, module: nn.Module, of: Of) -> tuple[Array, Array]:
    return gradients(toy, module, toy.train, of), gradients(toy, module, toy.test, of)


def _binary(below: Path) -> Toy:
    """A converged softmax regression of two classes, with weight decay 0.05."""
    data = table()
    train_split, test = (replace(s, y=s.y % 2) for s in (data.train, data.test))
    data = replace(data, train=train_split, test=test, classes=("a", "b"))
    return converged(below, data, Linear(), 0.05)


def trak(below: Path) -> Iterator[Comparison]:
    """Written out; its averages; and the influence function that it is when R is kept and nothing is projected."""
    for kind, toy in toys(below):
        module = toy.module()
        mine, theirs = _both(toy, module, margin(toy))
        scale = float(np.square(mine).sum()) / len(mine)
        found = toy.estimate("trak", kind="none", damping=0.1 * scale)
        both = regression(mine, np.concatenate([theirs, mine]), 0.1 * scale)
        whole, own = both[:, : len(theirs)], np.diag(both[:, len(theirs) :])
        q = slopes(toy, module, toy.train)
        yield compare(f"matrix of all parameters, {kind}", found.values, q[:, None] * whole, SOLVED)
        yield compare(f"leverages, {kind}", array(found.self_influence), q * own, SOLVED)
        if kind not in ("mlp", "regression mlp"):
            continue
        step = toy.steps()[-1]
        for name in ("gaussian", "rademacher", "sparse"):
            for dim in (5, 12):  # fewer than instances, and more
                drawn = sparse(toy, step, dim) if name == "sparse" else projection(toy, step, dim, name, False)
                few = regression(mine @ drawn.T, theirs @ drawn.T, 0.1 * scale)
                given: dict[str, Any] = {"kind": name, "dim": dim, "damping": 0.1 * scale}
                told = f"{name} to {dim} numbers, {kind}"
                yield compare(told, toy.estimate("trak", **given).values, q[:, None] * few, SOLVED)
    yield from _averages(below)
    yield from _halves(below)
    yield from _exact(below)


def _averages(below: Path) -> Iterator[Comparison]:
    """Over models and checkpoints, with the jackknife beside the standard error of values whose slopes hardly vary."""
    toy = train(below, table(), MLP(width=5))
    others = [train(below, table(), MLP(width=5), seed=stream_seed(0, f"ensemble/{k}")) for k in (1, 2)]
    sums, weights = [], []
    for one in (toy, *others):
        for step in one.steps()[-2:]:
            module = one.module(step)
            sums.append(regression(*_both(one, module, margin(one)), 5.0))
            weights.append(slopes(one, module, one.train))
    models = np.stack(sums).reshape(3, 2, *sums[0].shape).mean(1)
    q = np.stack(weights).reshape(3, 2, -1).mean(1)
    found = toy.estimate("trak", kind="none", damping=5.0, models=3, checkpoints=2)
    expected = q.mean(0)[:, None] * models.mean(0)
    yield compare("means over three models of two checkpoints", found.values, expected, SOLVED)
    deviations = q.mean(0)[:, None] * (models - models.mean(0)) + models.mean(0) * (q - q.mean(0))[:, :, None]
    error = np.sqrt((deviations**2).sum(0) / 2 / 3)
    yield compare("standard error of their product", array(found.stderr), error, 1e-6)
    last = toy.estimate("trak", kind="none", damping=5.0, checkpoints=2)
    yield compare("means over two checkpoints", last.values, q[0][:, None] * models[0], SOLVED)


def _halves(below: Path) -> Iterator[Comparison]:
    """Three models that saw halves of the training set, drawn as documented; gradients are those of all of it."""
    toy, sums, weights = train(below, table(), MLP(width=5)), [], []
    for k in range(3):
        seed = stream_seed(0, f"ensemble/{k}") if k else 0
        rows = np.sort(stream(seed, "draws/part of 0.5 for ensemble").permutation(9)[:4])
        half = train(below, replace(table(), train=table().train.take(rows)), MLP(width=5), seed=seed)
        seen = half.with_data(toy.problem.data)
        module = half.module()
        sums.append(regression(*_both(seen, module, margin(toy)), 5.0))
        weights.append(slopes(seen, module, toy.train))
    found = toy.estimate("trak", kind="none", damping=5.0, models=3, subset=0.5)
    expected = np.mean(weights, 0)[:, None] * np.mean(sums, 0)
    yield compare("means over three models of halves", found.values, expected, SOLVED)


def _exact(below: Path) -> Iterator[Comparison]:
    """With R and damping n·decay: the influence function of a linear model, on margins and on risks."""
    linear = converged(below, table("regression"), Linear(), 0.05)
    for told, toy in (("softmax regression of two classes", _binary(below)), ("linear regression", linear)):
        module, n = toy.module(), len(toy.train)
        matrix = n * dense.dense_matrix(toy, "hessian")
        risks = plain.gradients(toy, module, toy.train)
        targets = {
            "margins": gradients(toy, module, toy.test, margin(toy)),
            "risks": plain.gradients(toy, module, toy.test),
        }
        for name, sign in (("margins", -1), ("risks", 1)):
            expected = sign * risks @ np.linalg.solve(matrix, targets[name].T)
            given = {"kind": "none", "with_r": True, "damping": n * 0.05, "to_loss": name == "risks"}
            found = toy.estimate("trak", **given)
            yield compare(f"influence on {name}, {told}", found.values, expected, SOLVED)
            mine = risks if name == "risks" else gradients(toy, module, toy.train, margin(toy))
            alone = sign * (risks * np.linalg.solve(matrix, mine.T).T).sum(1)
            yield compare(f"on itself, {name}, {told}", array(found.self_influence), alone, SOLVED)


def dtrak(below: Path) -> Iterator[Comparison]:
    """Written out for every function of the outputs; TRAK without its weights."""
    toy = train(below, table(), MLP(width=5))
    module = toy.module()
    for name, of in OUTPUTS.items():
        mine, theirs = _both(toy, module, of)
        damping = 0.05 * float(np.square(mine).sum()) / len(mine)
        found = toy.estimate("dtrak", kind="none", damping=damping, output=name)
        yield compare(f"matrix of all parameters, {name}", found.values, regression(mine, theirs, damping), SOLVED)
    both = {"dim": 12, "damping": 1.0}
    weights = slopes(toy, module, toy.train)[:, None]
    found = toy.estimate("dtrak", output="margin", **both)
    yield compare("trak, its weights put back", weights * found.values, toy.estimate("trak", **both).values, LOOP)


def less(below: Path) -> Iterator[Comparison]:
    """Loops over Adam's updates from saved moments, whole and sketched; of plain SGD it is GAS."""
    adam = Adam(lr=0.05, beta1=0.8, beta2=0.9, weight_decay=0.01)
    for told, toy in (
        ("mlp", train(below, table(), MLP(width=5), adam)),
        ("regression mlp", train(below, table("regression"), MLP(width=5), adam)),
    ):
        for kind in ("none", "sparse"):
            total, own = np.zeros((len(toy.train), len(toy.test))), np.zeros(len(toy.train))
            for step, weight in checkpoint_weights(toy).items():
                module, (first, second) = toy.module(step), _moments(toy, step)
                mine, theirs = (plain.gradients(toy, module, split) for split in (toy.train, toy.test))
                matrix = np.eye(mine.shape[1]) if kind == "none" else sparse(toy, step, 16)
                for i, g in enumerate(mine):
                    m = (0.8 * first + 0.2 * g) / (1 - 0.8 ** (step + 1))
                    v = (0.9 * second + 0.1 * g * g) / (1 - 0.9 ** (step + 1))
                    update = m / (np.sqrt(v) + 1e-8)
                    own[i] += weight * cosine(update, g)
                    for j, h in enumerate(theirs):
                        total[i, j] += weight * cosine(matrix @ update, matrix @ h)
            found = toy.estimate("less", kind=kind, dim=16)
            yield compare(f"loops over Adam's updates, {kind}, {told}", found.values, total, 1e-7)
            yield compare(f"on itself, {kind}, {told}", array(found.self_influence), own, 1e-7)
    for told, toy in toys(below):
        found, cosines = (toy.estimate(name, **given) for name, given in (("less", {"kind": "none"}), ("gas", {})))
        yield compare(f"gas, by plain SGD, {told}", found.values, cosines.values, LOOP)


def _moments(toy: Toy, step: int) -> tuple[Array, Array]:
    saved = load_file(toy.folder / "checkpoints" / f"state_{step:08d}.safetensors")
    count = len(list(toy.module().parameters()))
    first, second = (
        np.concatenate([saved[f"{slot}.{i}"].numpy().ravel() for i in range(count)]) for slot in ("first", "second")
    )
    return first, second


# estimator -> oracle
ORACLES: dict[str, Oracle] = {"dtrak": dtrak, "less": less, "logra": logra, "trak": trak}
