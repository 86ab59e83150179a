"""Products of a batch's Hessian with many vectors at once.

Vectors are lists of tensors ``(K, *shape)``, one per parameter, in the order of ``module.parameters()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from influx.engines.autograd import differentiable, quiet
from influx.learners.torch.activations import ACTIVATIONS
from influx.learners.torch.dense import dense_layers
from influx.learners.torch.tasks import Task

Vectors = list[Tensor]
Product = Callable[[Vectors], Vectors]


@dataclass(frozen=True)
class Hessians:
    """Hessians of the mean risk of batches under one module, whose parameters may change between calls.

    ``gauss_newton`` leaves out how the outputs bend: products are with (1/b) Σ_i J_iᵀ Λ_i J_i, which has no negative
    eigenvalue (Martens 2020, arXiv:1412.1193, section 8).
    """

    module: nn.Module
    task: Task
    gauss_newton: bool = False

    @cached_property
    def dense(self) -> tuple[list[nn.Linear], list[nn.Module]] | None:
        """Linear layers and the functions between them of a plain network, None of any other."""
        if getattr(self.task, "by_target", False):  # its curvature is no function of the outputs alone
            return None
        layers = dense_layers(self.module)
        functions = [m for m in self.module._modules.values() if m is not None and type(m) in ACTIVATIONS]
        return (layers[0], functions) if layers else None

    def of(self, x: Tensor, y: Tensor) -> Product:
        """Product with the curvature of the mean risk of ``x`` (b, ...), ``y`` (b,) at the present parameters."""
        if self.dense is not None:
            return _dense_product(self.dense[0], self.dense[1], self.task, x, y, self.gauss_newton)
        return self._by_outputs(x) if self.gauss_newton else self._by_autograd(x, y)

    def _by_autograd(self, x: Tensor, y: Tensor) -> Product:
        """Reverse over reverse: the gradient and its graph once, then one pull-back per vector."""
        named = {k: p.detach() for k, p in self.module.named_parameters()}
        buffers = dict(self.module.named_buffers())

        def risk(params: dict[str, Tensor]) -> Tensor:
            return self.task.loss(functional_call(self.module, buffers | params, (x,)), y).mean()

        with _twice_differentiable(self.module):
            pull = vjp(grad(risk), named)[1]

        def product(vectors: Vectors) -> Vectors:
            found = vmap(pull)(dict(zip(named, vectors, strict=True)))[0]
            return [found[name] for name in named]

        return product

    def _by_outputs(self, x: Tensor) -> Product:
        """Tangents of the outputs, curved by the risk, and pulled back."""
        named = {k: p.detach() for k, p in self.module.named_parameters()}
        buffers = dict(self.module.named_buffers())

        def outputs(params: dict[str, Tensor]) -> Tensor:
            result: Tensor = functional_call(self.module, buffers | params, (x,))
            return result

        def forward(tangents: dict[str, Tensor]) -> Tensor:
            along: Tensor = jvp(outputs, (named,), (tangents,))[1]
            return along

        with _twice_differentiable(self.module):
            made, pull = vjp(outputs, named)  # type: ignore[misc]
            twice = vjp(lambda seeds: pull(seeds)[0], torch.zeros_like(made))[1]  # the pull-back is linear
        along = forward if _has_tangents(self.module, forward, named) else lambda tangents: twice(tangents)[0]

        def product(vectors: Vectors) -> Vectors:
            def one(tangents: dict[str, Tensor]) -> dict[str, Tensor]:
                found: dict[str, Tensor] = pull(self.task.curved(made, along(tangents)) / len(x))[0]
                return found

            with _twice_differentiable(self.module):
                found = vmap(one)(dict(zip(named, vectors, strict=True)))
            return [found[name] for name in named]

        return product

    def each(self, x: Tensor, y: Tensor, vectors: Vectors) -> Vectors:
        """Hessian of each instance's own risk, times its own one of the ``b`` vectors."""
        named = {k: p.detach() for k, p in self.module.named_parameters()}
        buffers = dict(self.module.named_buffers())

        def one(x: Tensor, y: Tensor, vector: dict[str, Tensor]) -> dict[str, Tensor]:
            def risk(params: dict[str, Tensor]) -> Tensor:
                return self.task.loss(functional_call(self.module, buffers | params, (x[None],)), y[None])[0]

            product: dict[str, Tensor] = vjp(grad(risk), named)[1](vector)[0]
            return product

        with _twice_differentiable(self.module):
            found = vmap(one)(x, y, dict(zip(named, vectors, strict=True)))
        return [found[name] for name in named]


@contextmanager
def _twice_differentiable(module: nn.Module) -> Iterator[None]:
    """With operations that have second derivatives and tangents, and without torch's remarks on its own code."""
    with quiet(), sdpa_kernel(SDPBackend.MATH), differentiable(module):
        yield


def _has_tangents(module: nn.Module, forward: Callable[[dict[str, Tensor]], Tensor], named: dict[str, Tensor]) -> bool:
    """Whether every operation of the module can be differentiated in forward mode, several tangents at once."""
    try:
        with _twice_differentiable(module):
            vmap(forward)({name: torch.zeros_like(p)[None] for name, p in named.items()})
    except (RuntimeError, NotImplementedError):
        return False
    return True


@torch.no_grad()
def _dense_product(
    layers: list[nn.Linear], functions: list[nn.Module], task: Task, x: Tensor, y: Tensor, gauss_newton: bool
) -> Product:
    """Pearlmutter's R-operator written out for a plain network.

    All vectors share the batch, so the first layer of all of them is one product of matrices. Activations are stored
    as ``(features, b)``. Gauss-Newton products are what remains when gradients and second derivatives count as zero.
    """
    inputs = [x.flatten(1).t()]
    slopes, bends = [], []
    for layer, function in zip(layers[:-1], functions, strict=True):
        value, slope, bend = derivatives(function, affine(layer, inputs[-1]))
        inputs.append(value)
        slopes.append(slope)
        bends.append(bend)
    outputs = affine(layers[-1], inputs[-1])
    deltas = [task.output_gradient(outputs.t(), y).t() / len(x)]
    back = []  # W^T delta: gradients with respect to each hidden layer's activations
    for layer, slope in zip(layers[:0:-1], reversed(slopes), strict=True):
        back.append(layer.weight.t() @ deltas[-1])
        deltas.append(back[-1] * slope)
    deltas.reverse()
    back.reverse()

    @torch.no_grad()
    def product(vectors: Vectors) -> Vectors:
        pairs, given = [], iter(vectors)
        for layer in layers:
            pairs.append((next(given), next(given) if layer.bias is not None else None))
        moved: list[Tensor] = []  # (K, features, b) tangents of hidden activations
        pre: list[Tensor] = []  # of what they are functions of
        tangent = pairs[0][0].new_zeros(())
        for number, (layer, (v, bias)) in enumerate(zip(layers, pairs, strict=True)):
            tangent = (v.reshape(-1, v.shape[2]) @ inputs[number]).view(len(v), v.shape[1], -1)
            if bias is not None:
                tangent += bias.unsqueeze(2)
            if number:
                tangent.baddbmm_(layer.weight.expand(len(v), -1, -1), moved[-1])
            if number < len(functions):
                pre.append(tangent)
                moved.append(slopes[number] * tangent)
        tangent = task.curved(outputs, tangent, -2).div_(len(x))
        found: list[Tensor] = []
        for number in range(len(layers) - 1, -1, -1):
            v, bias = pairs[number]
            if bias is not None:
                found.append(tangent.sum(2))
            weight = (tangent.reshape(-1, tangent.shape[2]) @ inputs[number].t()).view(v.shape)
            if number and not gauss_newton:
                weight.baddbmm_(deltas[number].expand(len(v), -1, -1), moved[number - 1].transpose(1, 2))
            found.append(weight)
            if number:
                below = layers[number].weight.t() @ tangent
                if not gauss_newton:
                    below.baddbmm_(v.transpose(1, 2), deltas[number].expand(len(v), -1, -1))
                tangent = below.mul_(slopes[number - 1])
                bend = bends[number - 1]
                if bend is not None and not gauss_newton:
                    tangent.addcmul_(pre[number - 1], bend * back[number - 1])
        return found[::-1]

    return product


def affine(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """``(out, b)`` outputs of a layer for inputs ``(in, b)``."""
    outputs = layer.weight @ inputs
    return outputs if layer.bias is None else outputs + layer.bias.unsqueeze(1)


def derivatives(function: nn.Module, z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Value, first and second derivative of an elementwise function; None for a second derivative of zero."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = function(z)
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        bend = torch.autograd.grad(slope.sum(), z, allow_unused=True)[0] if slope.requires_grad else None
    return value.detach(), slope.detach(), bend
