"""VAE-TracIn by loops over checkpoints, instances and single draws, and against an expectation in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.models.vae import VAE
from influx.oracles.checkpoints import LOOP, checkpoint_weights, toys
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, table, train
from influx.problem import Split
from influx.streams import normals

DRAWS, GROUPS = 4, 2
MANY, MANY_GROUPS = 4096, 16
Z = 5.0  # standard errors; the streams are fixed, so this is no matter of chance


def vae_tracin(below: Path) -> Iterator[Comparison]:
    """TracInCP without draws; loops over draws; the expected gradients of a linear autoencoder."""
    for kind, toy in toys(below):
        found, expected = toy.estimate("vae_tracin"), toy.estimate("tracincp")
        yield compare(f"tracincp without draws, {kind}", found.values, expected.values, 1e-11)
        yield compare(f"tracincp on itself without draws, {kind}", _own(found), _own(expected), 1e-11)
    data = replace(table(n_train=5, n_test=3), task="density")
    for kind, model in (
        ("autoencoder", VAE(width=[4], latent=2, beta=0.5)),
        ("conditional autoencoder", VAE(width=[4], latent=2, conditional=True, likelihood="gaussian_learned")),
    ):
        toy = train(below, data, model, SGD(lr=0.02), schedule="cosine", warmup_steps=2)
        for part in ("", "decoder"):
            yield from _loops(f"{kind}{', decoder alone' if part else ''}", toy, part)
    yield from _expected(train(below, data, VAE(width=[], latent=2, beta=0.7), SGD(lr=0.02)))


def _loops(told: str, toy: Toy, part: str) -> Iterator[Comparison]:
    """One backward pass per instance and draw."""
    values, variance = np.zeros((2, len(toy.train), len(toy.test)))
    own = {name: np.zeros(len(toy.train)) for name in ("split_half", "pairs", "same")}
    for step, weight in checkpoint_weights(toy).items():
        mine, theirs = (_gradients(toy, step, split, part) for split in (toy.train, toy.test))
        left_out = []
        for gone in np.split(np.arange(DRAWS), GROUPS):
            kept = [r for r in range(DRAWS) if r not in gone]
            left_out.append(mine[:, kept].mean(1) @ theirs[:, kept].mean(1).T)
        values += weight * mine.mean(1) @ theirs.mean(1).T
        variance += weight**2 * (GROUPS - 1) * np.var(np.stack(left_out), axis=0)
        for i, draws in enumerate(mine):
            halves = np.split(draws, 2)
            own["split_half"][i] += weight * float(halves[0].mean(0) @ halves[1].mean(0))
            own["pairs"][i] += weight * float(np.mean([a @ b for a, b in combinations(draws, 2)]))
            own["same"][i] += weight * float(draws.mean(0) @ draws.mean(0))
    given = {"draws": DRAWS, "groups": GROUPS, "parameters": part or "all"}
    for name, expected in own.items():
        found = toy.estimate("vae_tracin", self_unbiased=name, **given)
        yield compare(f"autograd loop on itself, {name}, {told}", _own(found), expected, LOOP)
    yield compare(f"autograd loop, {told}", found.values, values, LOOP)
    yield compare(f"jackknife over groups of draws, {told}", _stderr(found), np.sqrt(variance), 1e-7)


def _gradients(toy: Toy, step: int, split: Split, part: str) -> Array:
    """``(n, R, p)`` gradients of the risk of each draw."""
    module, model = toy.module(step), toy.learner.model
    assert isinstance(model, VAE)
    chosen = [p for name, p in module.named_parameters() if name.startswith(part)]
    x, y = toy.tensors(split)
    drawn = torch.from_numpy(normals(toy.problem.seed, f"vae_tracin/{step}", split.ids, DRAWS * model.latent))
    label = torch.eye(len(toy.problem.data.classes), dtype=x.dtype)[y] if model.conditional else x[:, :0]
    rows = []
    for instance, known, numbers in zip(x, label, drawn, strict=True):
        for one in numbers.split(model.latent):
            risk = module(torch.cat([instance, known, one])[None]).sum()
            found = torch.autograd.grad(risk, chosen, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([g.flatten() for g in found]).numpy())
    return np.stack(rows).reshape(len(x), DRAWS, -1)


def _expected(toy: Toy) -> Iterator[Comparison]:
    """Encoder and decoder without hidden layers: E|x - W(m + s ε) - c|² = |x - W m - c|² + Σ_k s_k² |W_k|²."""
    values, own = np.zeros((len(toy.train), len(toy.test))), np.zeros(len(toy.train))
    for step, weight in checkpoint_weights(toy).items():
        module = toy.module(step)
        mine, theirs = (_of(module, toy.tensors(split)[0]) for split in (toy.train, toy.test))
        values += weight * mine @ theirs.T
        own += weight * (mine * mine).sum(axis=1)
    found = toy.estimate("vae_tracin", draws=MANY, groups=MANY_GROUPS)
    z = np.abs(found.values - values) / _stderr(found)
    yield Comparison("expected gradients of a linear autoencoder (standard errors)", float(z.max()), Z)
    yield compare("expected gradients of a linear autoencoder", found.values, values, 0.05)
    yield compare("expected gradients of a linear autoencoder on itself", _own(found), own, 0.05)


def _of(module: nn.Module, x: Tensor) -> Array:
    encoder, decoder = (list(getattr(module, name).parameters()) for name in ("encoder", "decoder"))
    rows = []
    for instance in x:
        mean, log_variance = (encoder[0] @ instance + encoder[1]).chunk(2)
        off = instance - decoder[0] @ mean - decoder[1]
        spread = (log_variance.exp() * decoder[0].square().sum(0)).sum()
        divergence = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum()
        risk = 0.5 * (off.square().sum() + spread) + 0.7 * divergence
        found = torch.autograd.grad(risk, [*encoder, *decoder])
        rows.append(torch.cat([g.flatten() for g in found]).numpy())
    return np.stack(rows)


def _own(influence: Influence) -> Array:
    assert influence.self_influence is not None
    return influence.self_influence


def _stderr(influence: Influence) -> Array:
    assert influence.stderr is not None
    return influence.stderr
