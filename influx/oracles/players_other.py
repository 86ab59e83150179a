"""Games whose players are features or units: predictions written out layer by layer, definitions, closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.coalitions import Coalition, subsets_without
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, images, table, train
from influx.problem import Split
from influx.streams import stream

EXACT, SINGLE = 1e-10, 1e-6  # logits are kept in single precision
Value = Callable[[Coalition], Array]  # (m,)
UNITS = (nn.Tanh, nn.ReLU, nn.GELU)


def shapley_value(value: Value, players: int) -> Array:
    """``(players, m)`` by the definition, each coalition valued once."""
    known: dict[Coalition, Array] = {}

    def v(coalition: Coalition) -> Array:
        if coalition not in known:
            known[coalition] = value(coalition)
        return known[coalition]

    def marginal(player: int, s: Coalition) -> Array:
        return (v(s | {player}) - v(s)) / (players * comb(players - 1, len(s)))

    rows = [sum(marginal(player, s) for s in subsets_without(players, player)) for player in range(players)]
    return np.stack([np.asarray(row) for row in rows])


def of_table(found: Influence, name: str, players: int, column: str = "value") -> Array:
    """``(players, m)`` from a table with a row per test instance and player."""
    return found.tables[name][column].to_numpy(np.float64).reshape(-1, players).T


def without_features(toy: Toy, split: Split, background: NDArray[Any], groups: list[list[int]]) -> Value:
    """v(S) of features: each instance and each background instance on its own."""
    module = toy.module()

    def value(coalition: Coalition) -> Array:
        kept = sorted(number for player in coalition for number in groups[player])
        total = []
        for x, y in zip(split.x, split.y, strict=True):
            mixed = np.array(background).reshape(len(background), -1)
            mixed[:, kept] = x.reshape(-1)[kept]
            made = Split(x=mixed.reshape(-1, *x.shape), y=np.repeat(y, len(mixed)), ids=np.arange(len(mixed)))
            total.append(-plain.losses(toy, module, made).mean())
        return np.array(total)

    return value


def shap(below: Path) -> Iterator[Comparison]:
    """Linear models in closed form, the definition, and least squares with a multiplier."""
    yield from _linear_features(below)
    toy = train(below, table(), MLP(width=4), SGD(lr=0.3))
    each = [[feature] for feature in range(3)]
    drawn = _drawn(toy, 4)
    yield from _features(toy, "4 drawn instances", {"background": 4}, toy.train.x[drawn], each)
    center = toy.train.x.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    yield from _features(toy, "mean input", {"background": "mean"}, center, each)
    pictures = train(below, images(), MLP(width=4), SGD(lr=0.1))
    places = np.arange(64).reshape(8, 8)
    patches = [places[r : r + 4, c : c + 4].ravel().tolist() for r in (0, 4) for c in (0, 4)]
    yield from _features(pictures, "patches", {"patch": 4, "background": 8}, pictures.train.x, patches)
    yield from _sampled_features(below)


def _drawn(toy: Toy, count: int) -> list[int]:
    """Rows of the background: drawn among ascending ids."""
    rows = np.argsort(toy.train.ids)
    places = np.sort(stream(toy.problem.seed, "shap/background").permutation(len(rows))[:count])
    return [int(row) for row in rows[places]]


def _features(
    toy: Toy, label: str, settings: dict[str, Any], background: NDArray[Any], groups: list[list[int]]
) -> Iterator[Comparison]:
    found, players = toy.estimate("shap", **settings), len(groups)
    test, own = (without_features(toy, split, background, groups) for split in (toy.test, toy.train))
    expected, values = shapley_value(test, players), of_table(found, "features", players)
    yield compare(f"definition, {label}", values, expected, EXACT)
    yield compare(
        f"sum over features, {label}", values.sum(axis=0), test(frozenset(range(players))) - test(frozenset()), EXACT
    )
    products = shapley_value(own, players).T @ expected
    yield compare(f"products with training instances, {label}", found.values, products, EXACT)


def _linear_features(below: Path) -> Iterator[Comparison]:
    """Logit: w (x - mean of the background). Loss: the value of a quadratic game, averaged over the background."""
    toy = train(below, table("regression", n_train=9, features=5), Linear(), SGD(lr=0.1))
    w, b = (parameter.detach().numpy() for parameter in toy.module().parameters())
    x, y, background = (np.asarray(a, np.float64) for a in (toy.test.x, toy.test.y, toy.train.x))
    moved = w[0] * (x[:, None] - background[None])  # (m, b, d)
    c = (background @ w[0] + b)[None, :, None] - y[:, None, None]
    quadratic = -(c * moved + 0.5 * moved * moved.sum(axis=2, keepdims=True)).mean(axis=1).T
    for label, settings in (("all coalitions", {}), ("drawn coalitions", {"max_exact": 0})):
        logit = toy.estimate("shap", output="logit", **settings)
        yield compare(f"w (x - mean x), {label}", of_table(logit, "features", 5), moved.mean(axis=1).T, SINGLE)
        loss = of_table(toy.estimate("shap", **settings), "features", 5)
        yield compare(f"quadratic loss, {label}", loss, quadratic, EXACT)


def _sampled_features(below: Path) -> Iterator[Comparison]:
    """The equations of drawn coalitions, solved with a multiplier; errors by leaving out one pair after another."""
    toy, players = train(below, table(features=6), MLP(width=4), SGD(lr=0.3)), 6
    each = [[feature] for feature in range(players)]
    value = without_features(toy, toy.test, toy.train.x, each)
    found = toy.estimate("shap", max_exact=0, n_samples=80)
    coalitions = _drawn_coalitions(toy, players, 40)
    expected = _constrained(coalitions, value, players)
    yield compare("least squares", of_table(found, "features", players), expected, EXACT)
    left_out = [_constrained(coalitions[:k] + coalitions[k + 1 :], value, players) for k in range(len(coalitions))]
    error = np.sqrt(np.sum([np.square(other - expected) for other in left_out], axis=0))
    yield compare("standard errors", of_table(found, "features", players, "stderr"), error, EXACT)
    definition = shapley_value(value, players)
    many = toy.estimate("shap", max_exact=0, n_samples=4000)
    values, errors = (of_table(many, "features", players, column) for column in ("value", "stderr"))
    far = float((np.abs(values - definition) / errors).max())
    yield Comparison("4000 coalitions against the definition, in standard errors", far, 5.0)


def _drawn_coalitions(toy: Toy, players: int, count: int) -> list[list[int]]:
    rng = stream(toy.problem.seed, "shap/coalitions")
    chance = np.array([1 / (size * (players - size)) for size in range(1, players)])
    upto = list(accumulate(chance / chance.sum()))
    drawn = []
    for _ in range(count):
        uniform = rng.random()
        size = 1 + sum(uniform >= bound for bound in upto[:-1])
        drawn.append(sorted(rng.permutation(players)[:size].tolist()))
    return drawn


def _constrained(coalitions: Iterable[list[int]], value: Value, players: int) -> Array:
    """Least squares over coalitions and complements under Σ φ = v(D) - v(∅), with a Lagrange multiplier."""
    everybody = frozenset(range(players))
    rows = [frozenset(c) for c in coalitions]
    rows += [everybody - c for c in rows]
    z = np.array([[float(player in c) for player in range(players)] for c in rows])
    empty = value(frozenset())
    right = np.stack([value(c) for c in rows]) - empty
    system = np.ones((players + 1, players + 1))
    system[:players, :players], system[-1, -1] = z.T @ z, 0
    return np.asarray(np.linalg.solve(system, np.vstack([z.T @ right, value(everybody) - empty]))[:players])


def without_units(toy: Toy, split: Split, zero: bool = False) -> tuple[Value, int]:
    """v(S) of units and their number, going through the layers of a sequential module by hand."""
    module = toy.module()
    assert isinstance(module, nn.Sequential)
    constants: list[Tensor] = []
    flow = toy.tensors(toy.train)[0]
    for layer in module:
        flow = layer(flow).detach()
        if isinstance(layer, UNITS):
            mean = flow.mean(dim=[d for d in range(flow.ndim) if d != 1])
            constants.append(torch.zeros_like(mean) if zero else mean)
    x, y = toy.tensors(split)

    def value(coalition: Coalition) -> Array:
        now, number, which = x, 0, 0
        for layer in module:
            now = layer(now).detach().clone()
            if isinstance(layer, UNITS):
                for channel, constant in enumerate(constants[which]):
                    if number not in coalition:
                        now[:, channel] = constant
                    number += 1
                which += 1
        return -plain.risks(toy.task, now, y).numpy()

    return value, sum(len(c) for c in constants)


def neuron_shapley(below: Path) -> Iterator[Comparison]:
    """Linear last layers in closed form, the definition, and orders of removal one at a time."""
    yield from _linear_units(below)
    toy = train(below, table(), MLP(width=[3, 2]), SGD(lr=0.3))
    pictures = train(below, images(), CNN(channels=[2, 2], hidden=2), SGD(lr=0.1))
    for label, problem in (("two hidden layers", toy), ("convolutions", pictures)):
        for ablation in ("mean", "zero"):
            yield from _units(problem, f"{label}, {ablation}", ablation)
    yield from _removals(train(below, table(), MLP(width=6), SGD(lr=0.3)))


def _units(toy: Toy, label: str, ablation: str) -> Iterator[Comparison]:
    found = toy.estimate("neuron_shapley", ablation=ablation)
    (test, players), (own, _) = (without_units(toy, split, ablation == "zero") for split in (toy.test, toy.train))
    expected, values = shapley_value(test, players), of_table(found, "neurons_by_test", players)
    yield compare(f"definition, {label}", values, expected, EXACT)
    total = test(frozenset(range(players))) - test(frozenset())
    yield compare(f"sum over units, {label}", values.sum(axis=0), total, EXACT)
    products = shapley_value(own, players).T @ expected
    yield compare(f"products with training instances, {label}", found.values, products, EXACT)


def _linear_units(below: Path) -> Iterator[Comparison]:
    """Logit: w (a - mean a). Loss: the value of a quadratic game."""
    toy = train(below, table("regression"), MLP(width=5), SGD(lr=0.1))
    module = toy.module()
    w, b = (parameter.detach().numpy() for parameter in list(module.parameters())[-2:])
    test, own = (plain.features(module, toy.tensors(split)[0]) for split in (toy.test, toy.train))
    moved = w[0] * (test - own.mean(axis=0))  # (m, units)
    c = own.mean(axis=0) @ w[0] + b - toy.test.y.astype(np.float64)
    quadratic = -(c[:, None] * moved + 0.5 * moved * moved.sum(axis=1, keepdims=True)).T
    for label, settings in (("all coalitions", {}), ("removals", {"max_exact": 0, "truncation": 0.0, "top_k": None})):
        logit = of_table(toy.estimate("neuron_shapley", output="logit", **settings), "neurons_by_test", 5)
        yield compare(f"w (a - mean a), {label}", logit, moved.T, SINGLE)
    found = toy.estimate("neuron_shapley")
    yield compare("quadratic loss", of_table(found, "neurons_by_test", 5), quadratic, EXACT)


def _removals(toy: Toy) -> Iterator[Comparison]:
    """Orders of removal, with truncation and without."""
    value, players = without_units(toy, toy.test)
    for tolerance in (0.0, 0.4):
        settings = {"max_exact": 0, "permutations": 20, "truncation": tolerance, "patience": 2, "top_k": None}
        found = toy.estimate("neuron_shapley", **settings)
        rng = stream(toy.problem.seed, "neuron_shapley/permutations")
        rows = np.stack([_removed(value, rng.permutation(players).tolist(), tolerance) for _ in range(20)])
        label = f"truncation={tolerance:g}"
        values, errors = (of_table(found, "neurons_by_test", players, column) for column in ("value", "stderr"))
        yield compare(f"orders of removal, {label}", values, rows.mean(axis=0), EXACT)
        yield compare(f"standard errors, {label}", errors, rows.std(axis=0, ddof=1) / np.sqrt(20), EXACT)
    settings |= {"permutations": 2000, "truncation": 0.0, "check_every": 500}
    many = toy.estimate("neuron_shapley", **settings)
    values, errors = (of_table(many, "neurons_by_test", players, column) for column in ("value", "stderr"))
    far = float((np.abs(values - shapley_value(value, players)) / errors).max())
    yield Comparison("2000 orders against the definition, in standard errors", far, 5.0)


def _removed(value: Value, order: list[int], tolerance: float) -> Array:
    """``(players, m)`` losses of value along one order of removal, 0 once two in a row are near nobody's."""
    everybody, nobody = value(frozenset(order)), value(frozenset())
    row, near = np.zeros((len(order), len(nobody))), 0
    for q, player in enumerate(order):
        after = value(frozenset(order[q + 1 :]))
        row[player] = value(frozenset(order[q:])) - after
        close = abs(after.mean() - nobody.mean()) <= tolerance * abs(everybody.mean() - nobody.mean())
        near = near + 1 if tolerance and close else 0
        if near == 2:
            break
    return row


ORACLES = {"shap": shap, "neuron_shapley": neuron_shapley}
