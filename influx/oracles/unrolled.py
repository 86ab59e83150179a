"""Influence through every step of the training, by loops over steps and instances and by retraining."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from influx.influence import Influence
from influx.learners.torch.optimizers import SGD, Adam, AdamW
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.oracles import plain
from influx.oracles.checkpoints import LOOP, Pair, cosine, dot
from influx.oracles.comparison import Comparison, Oracle, compare
from influx.oracles.plain import Array
from influx.oracles.retraining import CASES, leave_one_out
from influx.oracles.toys import Toy, bundled, images, table, train
from influx.oracles.walk import differences, flat, shares, tangents, walk

SLOPE = 1e-6  # of finite differences
OF_SGD = [label for label, (optimizer, _) in CASES.items() if isinstance(optimizer, SGD)]
OF_ADAM = [label for label in CASES if label not in OF_SGD]


def _case(below: Path, label: str, **more: object) -> Toy:
    optimizer, settings = CASES[label]
    return train(below, table(), MLP(width=4), optimizer, **settings | more)


def _nets(below: Path) -> Iterator[tuple[str, Toy]]:
    """Kinds of layers and of steps."""
    yield "mlp", _case(below, "sgd")
    yield "momentum, clipping, cosine", _case(below, "momentum, clipping, cosine")
    yield "regression, weight decay", train(below, table("regression"), MLP(width=4), SGD(lr=0.1, weight_decay=0.1))
    yield "batch norm", train(below, images(6), ResNet9(norm="batch", width=1 / 32), epochs=1, batch_size=3)


def _both(
    told: str, found: Influence, expected: tuple[Array, Array] | Influence, bound: float = LOOP
) -> Iterator[Comparison]:
    values, own = _parts(expected) if isinstance(expected, Influence) else expected
    yield compare(told, found.values, values, bound)
    yield compare(f"{told}, on itself", _parts(found)[1], own, bound)


def _parts(found: Influence) -> tuple[Array, Array]:
    assert found.self_influence is not None
    return found.values, found.self_influence


def _gradients(toy: Toy) -> tuple[Array, Array]:
    """Of training and test instances at the end."""
    mine, theirs = (plain.gradients(toy, toy.module(), split) for split in (toy.train, toy.test))
    return mine, theirs


def _visits(toy: Toy, pair: Pair = dot, every: int = 1, at_end: bool = False) -> tuple[Array, Array]:
    """Σ over visits of η/b between gradients; the gradients of targets are those at the end with ``at_end``."""
    values, own = np.zeros((len(toy.train), len(toy.test))), np.zeros(len(toy.train))
    for step in walk(toy)[0][::every]:
        mine, theirs = (plain.gradients(toy, step.module, split) for split in (toy.train, toy.test))
        themselves, theirs = _gradients(toy) if at_end else (mine, theirs)
        for i in step.rows:
            weight = every * step.lr * step.clip / len(step.rows)
            values[i] += [weight * pair(mine[i], h) for h in theirs]
            own[i] += weight * pair(mine[i], themselves[i])
    return values, own


def _falls(toy: Toy) -> Array:
    """First-order fall -∇L_j(θ_t)·(θ_t+1 - θ_t) of each test risk at each step ``(T, m)``."""
    steps, final = walk(toy)
    moves = np.diff([flat(module) for module in (*(step.module for step in steps), final)], axis=0)
    return np.stack([-plain.gradients(toy, s.module, toy.test) @ move for s, move in zip(steps, moves, strict=True)])


def _mean_by_step(toy: Toy, found: Influence) -> Array:
    """What every step adds to the sum over training instances and mean over test instances ``(T,)``."""
    curves = found.tables["curves"]
    means = curves[curves["test_id"].isna()]
    return np.asarray(means["influence"].to_numpy().reshape(-1, len(toy.train)).sum(1))


def tracin_ideal(below: Path) -> Iterator[Comparison]:
    """Losses before and after every step, and their fall over the training."""
    for label in CASES:
        for size in (1, 4, 9):
            toy = _case(below, label, batch_size=size, epochs=2)
            fall = plain.losses(toy, toy.module(0), toy.test) - plain.losses(toy, toy.module(), toy.test)
            found = toy.estimate("tracin_ideal").values.sum(0)
            yield compare(f"sum is the fall of test risks, {label}, batches of {size}", found, fall, 1e-12)
    yield from _both("loop over steps of one", *_ideal(_case(below, "sgd", batch_size=1)))
    for kind, toy in _nets(below):
        yield from _both(f"loop over steps, {kind}", *_ideal(toy))


def _ideal(toy: Toy) -> tuple[Influence, tuple[Array, Array]]:
    values, own = np.zeros((len(toy.train), len(toy.test))), np.zeros(len(toy.train))
    steps, final = walk(toy)
    modules = [*(step.module for step in steps), final]
    for step, (before, after) in zip(steps, pairwise(modules), strict=True):
        test, mine = (plain.losses(toy, before, s) - plain.losses(toy, after, s) for s in (toy.test, toy.train))
        values[step.rows] += test / len(step.rows)
        own[step.rows] += mine[step.rows] / len(step.rows)
    return toy.estimate("tracin_ideal"), (values, own)


def tracin(below: Path) -> Iterator[Comparison]:
    """Loops over visits; the first-order fall, step by step; and ideal TracIn as steps get small."""
    for kind, toy in _nets(below):
        yield from _both(f"autograd loop, {kind}", toy.estimate("tracin"), _visits(toy))
    unclipped = _case(below, "sgd")
    found = unclipped.estimate("tracin", every=2)
    yield from _both("autograd loop, one step of two", found, _visits(unclipped, every=2))
    clipped = train(below, table(), MLP(width=4), SGD(lr=0.3), clip_norm=0.3)
    for kind, toy in (("sgd", unclipped), ("clipping", clipped)):
        found, falls = toy.estimate("tracin"), _falls(toy)
        yield compare(f"sum is the first-order fall, {kind}", found.values.sum(0), falls.sum(0), 1e-12)
        yield compare(f"the same step by step, {kind}", _mean_by_step(toy, found), falls.mean(1), 1e-12)
    toy = train(below, table(), MLP(width=4), SGD(lr=0.3, weight_decay=0.1))
    found = toy.estimate("tracin")
    total = found.values.sum(0).mean() + found.report["mean_of_weight_decay"]
    yield compare("with weight decay's share, mean over test risks", total, _falls(toy).sum(0).mean(), 1e-12)
    errors = []
    for epochs in (8, 16):
        toy = train(below, table(), MLP(width=4), SGD(lr=0.16 / epochs), batch_size=1, epochs=epochs)
        errors.append(np.linalg.norm(toy.estimate("tracin").values - toy.estimate("tracin_ideal").values))
    yield compare("error for ideal TracIn halves with the learning rate", errors[0] / errors[1], 2.0, 0.1)


def renorm_tracin(below: Path) -> Iterator[Comparison]:
    """Loops over visits, and GAS for full batches."""
    for kind, toy in _nets(below):
        yield from _both(f"autograd loop, {kind}", toy.estimate("renorm_tracin"), _visits(toy, cosine))
    toy = _case(below, "sgd")
    found = toy.estimate("renorm_tracin", every=2)
    yield from _both("autograd loop, one step of two", found, _visits(toy, cosine, every=2))
    toy = train(below, table(), MLP(width=4), batch_size=9, checkpoint_spacing="every", schedule="cosine")
    expected = toy.estimate("gas", weight="calibrated")
    yield from _both("gas of full batches", toy.estimate("renorm_tracin"), expected, 1e-12)


def _attributed(name: str, label: str, toy: Toy) -> Iterator[Comparison]:
    found, (values, own, of_decay) = toy.estimate(name), shares(toy)
    yield from _both(f"memories carried forwards, {label}", found, (values, own))
    fall = _falls(toy).sum(0)
    yield compare(f"sum and weight decay are the first-order fall, {label}", found.values.sum(0) + of_decay, fall, LOOP)
    told = [found.report[key] for key in ("first_order_fall", "of_instances", "of_weight_decay")]
    yield compare(f"the same in the report, {label}", told, [fall.mean(), values.sum(0).mean(), of_decay.mean()], LOOP)


def tracin_momentum(below: Path) -> Iterator[Comparison]:
    """Momentum carried forwards for every instance, the first-order fall, and the share that plain TracIn explains."""
    for label in OF_SGD:
        yield from _attributed("tracin_momentum", label, _case(below, label))
    toy = train(below, images(), CNN(channels=[3], hidden=4, norm="group"), SGD(lr=0.1, momentum=0.9), epochs=2)
    yield from _attributed("tracin_momentum", "cnn", toy)
    for label in ("sgd", "momentum, clipping, cosine"):
        optimizer, settings = CASES[label]
        toy = train(below, table(), MLP(width=4), SGD(lr=optimizer.lr), **settings)
        told = f"tracin without momentum, settings of {label}"
        yield from _both(told, toy.estimate("tracin_momentum"), toy.estimate("tracin"))
    optimizer = SGD(lr=0.001, momentum=0.9)
    toy = train(below, table(), MLP(width=4), optimizer, epochs=80, batch_size=9, checkpoint_spacing="every")
    thetas = np.stack([flat(toy.module(step)) for step in toy.steps()])
    plain_steps = np.stack([plain.gradients(toy, toy.module(s), toy.train).mean(0) for s in toy.steps()[:-1]])
    moves = np.diff(thetas, axis=0)
    explained = -optimizer.lr * (plain_steps * moves).sum() / (moves**2).sum()
    yield compare("plain steps explain 1 - momentum of a gentle training", explained, 0.1, 0.2)
    yield compare("share that is said to be explained", toy.estimate("tracin").report["explained"], explained, 0.2)


def tracin_adam(below: Path) -> Iterator[Comparison]:
    """First moments carried forwards for every instance, and the first-order fall."""
    for label in OF_ADAM:
        yield from _attributed("tracin_adam", label, _case(below, label))
    on_weights = AdamW(lr=0.02, weight_decay=0.5, decay_on="weights", beta1=0.7)
    toy = train(below, images(), CNN(channels=[3], hidden=4, norm="group"), on_weights, epochs=2)
    yield from _attributed("tracin_adam", "cnn, weight decay on weights", toy)


def _effects(toy: Toy, moved: Array) -> tuple[Array, Array]:
    """First-order influence on test and on itself of parameters whose derivatives are ``moved`` (n, p)."""
    mine, theirs = _gradients(toy)
    return -moved @ theirs.T, -(moved * mine).sum(1)


def hydra_fast(below: Path) -> Iterator[Comparison]:
    """The recursion with a vector for every instance, every optimizer differentiated by hand."""
    for label in CASES:
        toy = _case(below, label)
        expected = _effects(toy, tangents(toy, curvature=False))
        yield from _both(f"a vector per instance, {label}", toy.estimate("hydra_fast", audit=0), expected)
    toy = _case(below, "sgd")
    expected = _visits(toy, at_end=True)
    yield from _both("tracin with final test gradients", toy.estimate("hydra_fast", audit=0), expected)
    momentum = SGD(lr=0.1, momentum=0.8, weight_decay=0.05)
    toy = train(below, images(), CNN(channels=[3], hidden=4, norm="group"), momentum, epochs=2)
    expected = _effects(toy, tangents(toy, curvature=False))
    yield from _both("a vector per instance, cnn", toy.estimate("hydra_fast", audit=0), expected)


def hydra(below: Path) -> Iterator[Comparison]:
    """Finite differences of retraining, hand-written tangents, exact leave-one-out, and influence functions."""
    for label in CASES:
        toy = _case(below, label)
        found = toy.estimate("hydra", audit=0)
        yield from _both(f"finite differences of retraining, {label}", found, differences(toy), SLOPE)
        yield from _both(f"tangents by hand, {label}", found, _effects(toy, tangents(toy)))
        found = toy.estimate("hydra", audit=0, linearize_at="loo", start=2)
        expected = _effects(toy, tangents(toy, leave_out=True, start=2))
        yield from _both(f"tangents by hand, along the removal from step 2, {label}", found, expected)
    toy = train(below, table("regression"), MLP(width=4, activation="gelu"), SGD(lr=0.1, momentum=0.5))
    yield from _both("finite differences, regression", toy.estimate("hydra", audit=0), differences(toy), SLOPE)
    optimizer, settings = CASES["momentum, weight decay"]
    toy = train(below, images(), CNN(channels=[3], hidden=4, norm="group"), optimizer, epochs=2, **settings)
    yield from _both("finite differences, cnn", toy.estimate("hydra", audit=0), differences(toy), SLOPE)
    toy = train(below, bundled("diabetes", 12, 4), Linear(), SGD(lr=0.1, momentum=0.9, weight_decay=0.05), epochs=8)
    removed = leave_one_out(toy)
    found = toy.estimate("hydra", audit=0, linearize_at="loo", test_loss="moved")
    yield from _both("really leaving out, linear regression", found, removed)
    convex = SGD(lr=0.2, weight_decay=0.5)
    for epochs, bound in ((20, 0.1), (80, 1e-4), (320, 1e-12)):
        toy = train(below, bundled("diabetes", 20, 4), Linear(), convex, epochs=epochs, batch_size=20)
        limit, found = toy.estimate("if_exact", damping=0.0), toy.estimate("hydra", audit=0)
        yield compare(f"influence functions, after {epochs} full batches", found.values, limit.values, bound)


def magic(below: Path) -> Iterator[Comparison]:
    """Finite differences of retraining, hand-written tangents, and HyDRA."""
    for label in CASES:
        toy = _case(below, label)
        found = toy.estimate("magic", audit=0)
        yield from _both(f"tangents by hand, {label}", found, _effects(toy, tangents(toy)))
        yield from _both(f"finite differences of retraining, {label}", found, differences(toy), SLOPE)
        yield from _both(f"hydra, {label}", found, toy.estimate("hydra", audit=0))
    toy = _case(below, "adamw")
    found, expected = toy.estimate("magic", audit=0, start=4), _effects(toy, tangents(toy, start=4))
    yield from _both("tangents by hand, from step 4", found, expected)
    calm = Adam(lr=0.01, eps=0.01)
    toy = train(below, images(), CNN(channels=[3], hidden=4, norm="group"), calm, epochs=2)
    yield from _both("finite differences, cnn", toy.estimate("magic", audit=0), differences(toy), SLOPE)


def sgd_influence(below: Path) -> Iterator[Comparison]:
    """Finite differences of retraining, hand-written tangents, HyDRA and MAGIC."""
    for label in OF_SGD:
        toy = _case(below, label)
        found = toy.estimate("sgd_influence", audit=0)
        yield from _both(f"tangents by hand, {label}", found, _effects(toy, tangents(toy)))
        yield from _both(f"finite differences of retraining, {label}", found, differences(toy), SLOPE)
        for name in ("hydra", "magic"):
            yield from _both(f"{name}, {label}", found, toy.estimate(name, audit=0))
    toy = _case(below, "momentum, weight decay")
    found, expected = toy.estimate("sgd_influence", audit=0, epochs=1), _effects(toy, tangents(toy, start=6))
    yield from _both("tangents by hand, of the last epoch", found, expected)


# estimator -> oracle
ORACLES: dict[str, Oracle] = {
    "hydra": hydra,
    "hydra_fast": hydra_fast,
    "magic": magic,
    "renorm_tracin": renorm_tracin,
    "sgd_influence": sgd_influence,
    "tracin": tracin,
    "tracin_adam": tracin_adam,
    "tracin_ideal": tracin_ideal,
    "tracin_momentum": tracin_momentum,
}
