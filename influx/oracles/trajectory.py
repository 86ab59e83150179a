"""Gradient similarity along the trajectory, by loops over checkpoints and instances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from influx.learners.torch.optimizers import SGD
from influx.learners.torch.tasks import Task
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import plain, segments, unrolled, words
from influx.oracles.checkpoints import (
    LOOP,
    RATES,
    SETTINGS,
    Pair,
    PairAt,
    checkpoint_weights,
    contributions,
    cosine,
    dot,
    left_out,
    loss_drops,
    toys,
)
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train
from influx.oracles.tracin_ad import tracin_ad
from influx.oracles.vae_tracin import vae_tracin
from influx.streams import stream, stream_seed


def _loops(name: str, below: Path, pair: PairAt, head: bool = False, **settings: Any) -> Iterator[Comparison]:
    """The default settings on every net, all settings on the one with a schedule."""
    for kind, toy in toys(below):
        found = toy.estimate(name, **settings)
        values, own = contributions(toy, checkpoint_weights(toy), pair, head)
        yield compare(f"autograd loop, {kind}", found.values, values.sum(0), LOOP)
        yield compare(f"autograd loop on itself, {kind}", _own(found.self_influence), own.sum(0), LOOP)
    yield from _curves(name, below, pair, head, **settings)
    toy = next(toys(below))[1]
    errors = []
    for lr_at, weight in SETTINGS:
        values, _ = contributions(toy, checkpoint_weights(toy, lr_at, weight), pair, head)
        found = toy.estimate(name, lr_at=lr_at, weight=weight, **settings)
        errors.append(compare("", found.values, values.sum(0), LOOP).error)
    yield Comparison("autograd loop, every lr_at and weight under a schedule", max(errors), LOOP)
    first, second, third, last = toy.steps()
    for lr_at in RATES:
        usable = [second, third, last] if lr_at == "prev" else [first, second, third]
        for choose, kept in (
            ("even", [usable[0], usable[2]]),
            ("even", [usable[2]]),
            ("loss_drop", loss_drops(toy, 2, lr_at)),
            ("loss_drop", loss_drops(toy, 1, lr_at)),
        ):
            values, _ = contributions(toy, checkpoint_weights(toy, lr_at, "calibrated", kept), pair, head)
            given = {"lr_at": lr_at, "weight": "calibrated", "checkpoints": len(kept), "choose": choose} | settings
            told = f"autograd loop, {len(kept)} of 3 checkpoints by {choose}, lr_at={lr_at}"
            yield compare(told, toy.estimate(name, **given).values, values.sum(0), LOOP)


def _curves(name: str, below: Path, pair: PairAt, head: bool = False, **settings: Any) -> Iterator[Comparison]:
    """What each checkpoint adds, in the table and in the standard error over checkpoints."""
    toy = next(toys(below))[1]
    values, own = contributions(toy, checkpoint_weights(toy), pair, head)
    found = toy.estimate(name, jackknife=True, **settings)
    yield compare("standard error by leaving out each checkpoint", _own(found.stderr), left_out(values), 1e-7)
    rows = {int(instance): row for row, instance in enumerate(toy.train.ids)}
    columns = {int(instance): column for column, instance in enumerate(toy.test.ids)}
    points = {step: c for c, step in enumerate(toy.steps()[:-1])}
    table, expected = found.tables["curves"], []
    for step, i, j in zip(table["step"], table["train_id"], table["test_id"], strict=True):
        one = values[points[step], rows[i]]
        expected.append(one.mean() if j is pd.NA else one[columns[j]])
    yield compare("curves", table["influence"], expected, LOOP)
    means = table[table["test_id"].isna()]
    yield compare("curves of instances themselves", means["self_influence"], own.ravel(), LOOP)


def _own(values: object) -> Array:
    assert isinstance(values, np.ndarray)
    return values


def _duplicates(name: str, below: Path) -> Iterator[Comparison]:
    """Equal instances score alike."""
    data = table()
    same = np.array([0, 0, *range(2, len(data.train))])
    split = replace(data.train, x=data.train.x[same], y=data.train.y[same])
    values = train(below, replace(data, train=split), MLP(width=5)).estimate(name).values
    yield compare("equal rows for equal instances", values[0], values[1], 1e-14)


def tracincp(below: Path) -> Iterator[Comparison]:
    """Loops; and summed over training instances, TracIn is the descent of the test risk."""
    yield from _loops("tracincp", below, lambda module, step: dot)
    yield from _duplicates("tracincp", below)
    rate = 1e-6
    toy = train(below, table(), MLP(width=5), SGD(lr=rate), batch_size=9, checkpoint_spacing="every")
    before, after = (plain.losses(toy, toy.module(step), toy.test) for step in (0, toy.steps()[-1]))
    for lr_at in RATES:
        total = toy.estimate("tracincp", weight="calibrated", lr_at=lr_at).values.sum(axis=0)
        # the descent itself loses digits to cancellation: 1e-16 / lr
        yield compare(f"sum is the descent of the test risk, lr_at={lr_at}", total, before - after, 1e-4)


def tracin_last(below: Path) -> Iterator[Comparison]:
    """Loops over the head's gradients, and (f_i·f_j + 1)(r_i·r_j)."""
    yield from _loops("tracin_last", below, lambda module, step: dot, head=True)
    yield from _duplicates("tracin_last", below)
    toy = train(below, table(), MLP(width=[5, 4]))
    expected = np.zeros((len(toy.train), len(toy.test)))
    for step, weight in checkpoint_weights(toy).items():
        module, parts = toy.module(step), []
        for split in (toy.train, toy.test):
            x, y = toy.tensors(split)
            with torch.no_grad():
                residual = plain.softmax(module(x).numpy()) - np.eye(3)[y]
            parts.append((plain.features(module, x), residual))
        (f_train, r_train), (f_test, r_test) = parts
        expected += weight * (f_train @ f_test.T + 1) * (r_train @ r_test.T)
    yield compare("features times residuals", toy.estimate("tracin_last").values, expected, LOOP)
    linear = train(below, table(), Linear())
    whole, last = (linear.estimate(name).values for name in ("tracincp", "tracin_last"))
    yield compare("tracincp, when the head is all there is", last, whole, 1e-14)


class _Scaled:
    """A task whose risks are all multiplied by one number."""

    def __init__(self, task: Task, factor: float) -> None:
        self.task, self.factor = task, factor

    def output_gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.factor * self.task.output_gradient(outputs, y)


def gas(below: Path) -> Iterator[Comparison]:
    """Loops over cosines, their bound, and what they do not depend on."""
    yield from _loops("gas", below, lambda module, step: cosine)
    yield from _duplicates("gas", below)
    toy = train(below, table(), MLP(width=5))
    values = toy.estimate("gas").values
    total = sum(checkpoint_weights(toy).values())
    yield Comparison("|values| at most the sum of weights (excess)", float(np.abs(values).max() / total - 1), 1e-12)
    recipe = replace(toy.fitted.recipe, task=_Scaled(toy.fitted.task, 1e3))
    scaled = replace(toy, fitted=replace(toy.fitted, recipe=recipe)).estimate("gas").values
    yield compare("the same after scaling every risk", scaled, values, 1e-13)
    data = table("regression")
    x, y = data.train.x.copy(), data.train.y.copy()
    x[0], y[0] = 0, 0  # without a bias this instance has no gradient anywhere
    still = train(below, replace(data, train=replace(data.train, x=x, y=y)), Linear(bias=False)).estimate("gas")
    row = [*still.values[0], _own(still.self_influence)[0]]
    yield Comparison("0 for an instance without gradient", float(np.abs(row).max()), 0.0)


def layer_cosines(module: nn.Module, unit: str, average: bool) -> Pair:
    """Cosines of slices of the gradients, one for each parameter tensor or module."""
    ends: dict[str, int] = {}
    size = 0
    for name, parameter in module.named_parameters():
        size += parameter.numel()
        ends[name if unit == "tensor" else name.rpartition(".")[0]] = size
    slices = [slice(start, end) for start, end in pairwise([0, *ends.values()])]

    def one(g: Array, h: Array, part: slice) -> float:
        """0 for a part that is zero but for rounding, such as a bias before a norm that subtracts means."""
        vanishes = any(np.linalg.norm(v[part]) < 2e-15 * np.linalg.norm(v) for v in (g, h))
        return 0.0 if vanishes else cosine(g[part], h[part])

    def compared(g: Array, h: Array) -> float:
        return sum(one(g, h, part) for part in slices) / (len(slices) if average else 1)

    return compared


def gas_layerwise(below: Path) -> Iterator[Comparison]:
    """Loops over layers, and GAS where there is one."""
    yield from _loops("gas_layerwise", below, lambda module, step: layer_cosines(module, "tensor", False))
    yield from _duplicates("gas_layerwise", below)
    for kind, toy in toys(below):
        for unit, average in (("module", False), ("module", True), ("tensor", True)):
            found = toy.estimate("gas_layerwise", unit=unit, average=average)

            def of(module: nn.Module, step: int, unit: str = unit, average: bool = average) -> Pair:
                return layer_cosines(module, unit, average)

            values, own = contributions(toy, checkpoint_weights(toy), of)
            yield compare(f"autograd loop, unit={unit}, average={average}, {kind}", found.values, values.sum(0), LOOP)
            told = f"autograd loop on itself, unit={unit}, average={average}, {kind}"
            yield compare(told, _own(found.self_influence), own.sum(0), LOOP)
    linear = train(below, table(), Linear())
    layers, whole = linear.estimate("gas_layerwise", unit="module").values, linear.estimate("gas").values
    yield compare("gas, when there is one layer", layers, whole, 1e-14)


def projection(toy: Toy, step: int, dim: int, kind: str, share: bool) -> Array:
    """P (D, p), drawn as documented; p D must fit in one piece."""
    seed = int(stream(toy.problem.seed, f"draws/projection{'' if share else f'/{step}'}").integers(1 << 63))
    seed, shape = stream_seed(seed, "0"), (sum(p.numel() for p in toy.module().parameters()), dim)
    if kind == "gaussian":
        drawn = torch.empty(shape).normal_(generator=torch.Generator().manual_seed(seed)).numpy()
    else:
        octets = np.frombuffer(np.random.Generator(np.random.PCG64(seed)).bytes(-(-shape[0] * dim // 8)), np.uint8)
        drawn = (2.0 * np.unpackbits(octets)[: shape[0] * dim] - 1).reshape(shape)
    return np.asarray(drawn.astype(float).T / np.sqrt(dim))


def tracinrp(below: Path) -> Iterator[Comparison]:
    """Loops between projected gradients, with their standard error; and TracInCP for P with orthogonal columns."""
    for kind, share in product(("gaussian", "rademacher"), (False, True)):
        for net, toy in toys(below):
            settings = {"dim": 12, "kind": kind, "share": share}
            weights = checkpoint_weights(toy)
            drawn = {step: projection(toy, step, 12, kind, share) for step in weights}

            def of(module: nn.Module, step: int, drawn: dict[int, Array] = drawn) -> Pair:
                return lambda g, h: float((drawn[step] @ g) @ (drawn[step] @ h))

            def spread(module: nn.Module, step: int, of: PairAt = of) -> Pair:
                pair = of(module, step)
                return lambda g, h: float(np.sqrt((pair(g, h) ** 2 + (g @ g) * (h @ h)) / 13))

            found = toy.estimate("tracinrp", **settings)
            told = f"{kind}{', shared' if share else ''}, {net}"
            yield compare(f"autograd loop, {told}", found.values, contributions(toy, weights, of)[0].sum(0), LOOP)
            errors, _ = contributions(toy, weights, spread)
            expected = errors.sum(0) if share else np.sqrt((errors**2).sum(0))
            yield compare(f"standard error, {told}", _own(found.stderr), expected, LOOP)
            _, own = contributions(toy, weights, lambda module, step: dot)
            yield compare(f"autograd loop on itself, {told}", _own(found.self_influence), own.sum(0), LOOP)
    yield from _duplicates("tracinrp", below)


# estimator -> oracle; other modules about the trajectory are merged in here
ORACLES: dict[str, Oracle] = {
    "gas": gas,
    "gas_layerwise": gas_layerwise,
    "tracin_ad": tracin_ad,
    "tracin_last": tracin_last,
    "tracincp": tracincp,
    "tracinrp": tracinrp,
    "vae_tracin": vae_tracin,
    **segments.ORACLES,
    **unrolled.ORACLES,
    **words.ORACLES,
}
