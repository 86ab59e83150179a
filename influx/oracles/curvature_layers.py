"""Layer-wise curvature written out: Kronecker products of dense factors, and explicit inverses for every instance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influx.learners.torch.optimizers import SGD
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import plain
from influx.oracles.comparison import Comparison, compare
from influx.oracles.plain import Array
from influx.oracles.toys import Toy, images, table, train

DECAY, DAMPING = 0.1, 0.3


class Seen:
    """Input and output of one linear or convolutional layer in the forward pass of one instance."""

    def __init__(self, layer: nn.Linear | nn.Conv2d):
        """Watch the layer."""
        self.layer = layer
        layer.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.input, self.output = args[0], output

    def inputs(self) -> Array:
        """``(L, d_in + 1)`` by position, the last number 1."""
        x = self.input.detach()
        if isinstance(self.layer, nn.Conv2d):
            assert not isinstance(self.layer.padding, str)
            x = F.unfold(x, self.layer.kernel_size, padding=self.layer.padding)[0].T
        return plain.with_ones(x.numpy())

    def outputs(self, seed: Tensor, result: Tensor) -> Array:
        """``(L, d_out)`` gradient of seed · result with respect to the output, by position."""
        (g,) = torch.autograd.grad((seed * result).sum(), self.output, retain_graph=True)
        return np.asarray(g[0].flatten(1).T.numpy() if g.ndim == 4 else g.numpy())


def _layers(module: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def _weights(toy: Toy, curvature: str, result: Tensor, y: Tensor) -> list[Tensor]:
    """Gradients with respect to the outputs whose outer products make one instance's curvature."""
    p = torch.softmax(result[0].detach(), 0)
    if toy.task == "regression":
        return [torch.ones(1, dtype=p.dtype) if curvature == "ggn" else result[0].detach() - y]
    unit = torch.eye(len(p), dtype=p.dtype)
    return [p[k].sqrt() * (p - unit[k]) for k in range(len(p))] if curvature == "ggn" else [p - unit[int(y)]]


def _joined(layer: nn.Module, gradients: Array) -> Array:
    """``(n, rows, columns + 1)`` of a layer from its ``(n, q)`` weight and bias gradients."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    count, out = layer.weight.numel(), len(layer.weight)
    weight, bias = gradients[:, :count].reshape(len(gradients), out, -1), gradients[:, count:, None]
    return np.asarray(np.concatenate([weight, bias], 2))


def pieces(module: nn.Module, gradients: Array) -> list[Array]:
    """Gradients ``(n, p)`` of all parameters, layer by layer as matrices."""
    sizes = [layer.weight.numel() + len(layer.weight) for layer in _layers(module)]
    pairs = zip(_layers(module), np.split(gradients, np.cumsum(sizes)[:-1], 1), strict=True)
    return [_joined(layer, piece) for layer, piece in pairs]


def layer_matrices(
    toy: Toy, strategy: str, curvature: str, steps: Sequence[int | None] = (None,), decay: float = DECAY
) -> list[Array]:
    """``(q, q)`` approximate curvature of each layer, weight decay included, in the order of ``pieces``.

    Means are taken over the checkpoints at ``steps``, None being the last.
    """
    modules, (x, y) = [toy.module(step) for step in steps], toy.tensors(toy.train)
    watched = [[Seen(layer) for layer in _layers(module)] for module in modules]
    inputs: list[Array] = [np.zeros(()) for _ in watched[0]]
    outputs: list[Array] = [np.zeros(()) for _ in watched[0]]
    found: list[list[Array]] = [[] for _ in watched[0]]
    count = len(x) * len(modules)
    for (module, seen), i in product(zip(modules, watched, strict=True), range(len(x))):
        result = module(x[i : i + 1])
        for number, seed in enumerate(_weights(toy, curvature, result, y[i])):
            for j, one in enumerate(seen):
                a, b = one.inputs(), one.outputs(seed, result)
                inputs[j] = inputs[j] + (a.T @ a if number == 0 else 0.0)
                outputs[j] = outputs[j] + b.T @ b / len(a)
                found[j].append((b.T @ a).ravel())
    made = []
    for a, b, gradients in zip(inputs, outputs, found, strict=True):
        basis = np.kron(np.linalg.eigh(b)[1], np.linalg.eigh(a)[1])
        if strategy == "kfac":
            h = np.kron(b / count, a / count)
        else:
            basis = np.eye(len(basis)) if strategy == "diagonal" else basis
            moments = np.square(np.stack(gradients) @ basis).sum(axis=0) / count
            h = basis * moments @ basis.T
        made.append(np.asarray(h + decay * np.eye(len(h))))
    return made


def _expected(toy: Toy, strategy: str, curvature: str) -> tuple[Array, Array]:
    """Influence on test instances and on the training instances themselves."""
    module, n = toy.module(), len(toy.train)
    mine, theirs = (pieces(module, plain.gradients(toy, module, split)) for split in (toy.train, toy.test))
    values, own = np.zeros((n, len(toy.test))), np.zeros(n)
    for h, left, right in zip(layer_matrices(toy, strategy, curvature), mine, theirs, strict=True):
        g, target = left.reshape(n, -1), right.reshape(len(right), -1)
        inverse = np.linalg.inv(h + DAMPING * np.eye(len(h)))
        values += g @ inverse @ target.T / n
        own += np.einsum("np,pq,nq->n", g, inverse, g) / n
    return values, own


def if_ekfac(below: Path) -> Iterator[Comparison]:
    """Dense curvature for squared error, dense Kronecker products for nets."""
    optimizer = SGD(lr=0.1, weight_decay=DECAY)
    toy = train(below, table("regression"), Linear(), optimizer)
    h = dense_matrix_of_regression(toy)
    mine, theirs = (plain.gradients(toy, toy.module(), split) for split in (toy.train, toy.test))
    for strategy in ("ekfac", "kfac"):
        found = toy.estimate("if_ekfac", whole=0, strategy=strategy, damping=DAMPING).values
        expected = mine @ np.linalg.solve(h + DAMPING * np.eye(len(h)), theirs.T) / len(mine)
        yield compare(f"normal equations of a linear layer, {strategy}", found, expected, 1e-11)
    nets = {
        "softmax layer": train(below, table(), Linear(), optimizer),
        "two layers": train(below, table(), MLP(width=3), optimizer),
        "convolutions": train(below, images(), CNN(channels=[2, 3], hidden=3), optimizer),
    }
    for net, toy in nets.items():
        for curvature in ("ggn", "empirical_fisher"):
            for strategy in ("ekfac", "kfac", "diagonal"):
                what = f"{net}, {curvature}, {strategy}"
                expected, own = _expected(toy, strategy, curvature)
                result = toy.estimate("if_ekfac", whole=0, strategy=strategy, curvature=curvature, damping=DAMPING)
                assert result.self_influence is not None
                yield compare(f"dense Kronecker products, {what}", result.values, expected, 1e-9)
                yield compare(f"the same on itself, {what}", result.self_influence, own, 1e-9)
    yield _whole(nets["softmax layer"])


def _whole(toy: Toy) -> Comparison:
    """A softmax layer without any approximation."""
    x, n = plain.with_ones(toy.train.x), len(toy.train)
    module = toy.module()
    (theta,) = pieces(module, np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])[None])
    h = plain.softmax_hessian(x, theta[0], np.ones(n), DECAY + DAMPING)
    mine, theirs = (
        pieces(module, plain.gradients(toy, module, split))[0].reshape(len(split), -1)
        for split in (toy.train, toy.test)
    )
    found = toy.estimate("if_ekfac", whole=1000, damping=DAMPING).values
    return compare("a whole softmax layer", found, mine @ np.linalg.solve(h, theirs.T) / n, 1e-10)


def dense_matrix_of_regression(toy: Toy) -> Array:
    """Curvature of the squared error of one linear layer."""
    x = plain.with_ones(toy.train.x)
    return np.asarray(x.T @ x / len(x) + DECAY * np.eye(x.shape[1]))


def datainf(below: Path) -> Iterator[Comparison]:
    """Explicit inverses of every instance and layer; the damped empirical Fisher matrix of a single instance."""
    optimizer = SGD(lr=0.1, weight_decay=DECAY)
    for what, toy in (
        ("two layers", train(below, table(), MLP(width=3), optimizer)),
        ("convolutions", train(below, images(), CNN(channels=[2, 3], hidden=3), optimizer)),
        ("one instance", train(below, table(n_train=1), MLP(width=3), optimizer, batch_size=1)),
    ):
        mine, theirs = (plain.gradients(toy, toy.module(), split) for split in (toy.train, toy.test))
        sizes = [sum(p.numel() for p in m.parameters()) for m in toy.module().children() if list(m.parameters())]
        for settings in ({}, {"factor": 3.0}, {"damping": DAMPING}):
            values, own = np.zeros((len(mine), len(theirs))), np.zeros(len(mine))
            for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
                g, target = mine[:, stop - size : stop], theirs[:, stop - size : stop]
                ridge = settings.get("damping", settings.get("factor", 0.1) * np.square(g).mean()) + DECAY
                terms = [np.linalg.inv(ridge * np.eye(size) + np.outer(row, row)) for row in g]
                inverse = np.mean(terms, axis=0)
                values += g @ inverse @ target.T / len(g)
                own += np.einsum("np,pq,nq->n", g, inverse, g) / len(g)
            found = toy.estimate("datainf", self_influence=True, **settings)
            assert found.self_influence is not None
            given = ", ".join(f"{name}={value}" for name, value in settings.items()) or "the paper's λ"
            yield compare(f"explicit inverses, {what}, {given}", found.values, values, 1e-10)
            yield compare(f"the same on itself, {what}, {given}", found.self_influence, own, 1e-10)


ORACLES = {"if_ekfac": if_ekfac, "datainf": datainf}
