"""Many models in one tensor program: parameters carry a leading axis of models, batches are shared.

Two programs with the same result: ``dense`` writes a network of linear layers as batched products, with the
first layer of all models as one product with the shared batch; ``vmap`` takes any module without batch
statistics or randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influx.learners.torch.optimizers import SGD, Slots
from influx.learners.torch.sequential import Recipe, decays
from influx.problem import LossNorm

SPAN = 4096  # instances gathered at a time
Forward = Callable[[Tensor], Tensor]


class Program(Protocol):
    """Trains ``M`` models that start alike and see the same batches with different instance weights.

    ``least`` is the number of models below which it is no faster than one at a time.
    """

    least: ClassVar[int]

    def train(self, recipe: Recipe, weights: Tensor, norm: LossNorm, after_step: Callable[[int], None]) -> Forward:
        """Train with ``weights`` (M, n_train); a function from inputs (b, ...) to outputs (M, b, outputs)."""
        ...


def batch_weights(weights: Tensor, index: Tensor, norm: LossNorm) -> Tensor:
    """``(M, b)`` weights of a batch's risks, divided by what the protocol says."""
    return _divided(weights[:, index], norm)


def _divided(w: Tensor, norm: LossNorm) -> Tensor:
    if norm == "full":
        return w / w.shape[1]
    total = w.sum(1, keepdim=True)
    return w / torch.where(total > 0, total, 1)


def clip_each(grads: list[Tensor], limit: float) -> list[Tensor]:
    """Scale each model's gradient down to norm ``limit``."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in grads])
    factor = (limit / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # (M,)
    return [g * factor.view(-1, *[1] * (g.ndim - 1)) for g in grads]


@dataclass(frozen=True)
class Vmap:
    """``torch.func`` over stacked parameters."""

    least: ClassVar[int] = 2

    module: nn.Module

    def train(self, recipe: Recipe, weights: Tensor, norm: LossNorm, after_step: Callable[[int], None]) -> Forward:
        """Train all models; see ``Program``."""
        models = len(weights)
        named = dict(self.module.named_parameters())
        names = list(named)
        decay = decays(recipe.optimizer, [p.shape for p in named.values()])
        params = [p.detach().expand(models, *p.shape).clone() for p in named.values()]
        slots = recipe.optimizer.slots(params)

        def loss(params: dict[str, Tensor], w: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return (recipe.task.loss(functional_call(self.module, params, (x,)), y) * w).sum()

        gradient = vmap(grad(loss), in_dims=(0, 0, None, None))
        for step in range(recipe.total):
            index = torch.from_numpy(recipe.batches[step]).to(recipe.x.device)
            w = batch_weights(weights, index, norm)
            named_grads = gradient(dict(zip(names, params, strict=True)), w, recipe.x[index], recipe.y[index])
            grads = [named_grads[name] for name in names]
            if recipe.training.clip_norm is not None:
                grads = clip_each(grads, recipe.training.clip_norm)
            lr = [recipe.lr(step)] * len(params)
            params, slots = recipe.optimizer.step(params, grads, slots, lr, decay, step + 1)
            after_step(step)

        final = dict(zip(names, params, strict=True))
        return lambda x: vmap(lambda p: functional_call(self.module, p, (x,)))(final)


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its derivative's product.

    ``forward(pre, out)`` fills ``out`` and may spoil ``pre`` if ``backward(gradient, pre, out)`` needs only ``out``.
    """

    forward: Callable[[Tensor, Tensor], None]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]


def _tanh(pre: Tensor, out: Tensor) -> None:
    """tanh(z) = 2 σ(2z) - 1: the same to rounding, and several times as fast as ``torch.tanh`` on one core."""
    torch.sigmoid(pre.mul_(2), out=out)
    torch.add(out.new_tensor(-1.0), out, alpha=2, out=out)


def _relu(pre: Tensor, out: Tensor) -> None:
    torch.clamp(pre, min=0, out=out)


def _sigmoid(pre: Tensor, out: Tensor) -> None:
    torch.sigmoid(pre, out=out)


def _gelu(pre: Tensor, out: Tensor) -> None:
    out.copy_(nn.functional.gelu(pre))


def _silu(pre: Tensor, out: Tensor) -> None:
    out.copy_(nn.functional.silu(pre))


aten = torch.ops.aten
ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(_tanh, lambda g, pre, out: aten.tanh_backward(g, out)),
    nn.ReLU: Activation(_relu, lambda g, pre, out: aten.threshold_backward(g, pre, 0)),
    nn.Sigmoid: Activation(_sigmoid, lambda g, pre, out: aten.sigmoid_backward(g, out)),
    nn.GELU: Activation(_gelu, lambda g, pre, out: aten.gelu_backward(g, pre)),
    nn.SiLU: Activation(_silu, lambda g, pre, out: aten.silu_backward(g, pre)),
}


def dense_layers(module: nn.Module) -> tuple[list[nn.Linear], list[Activation]] | None:
    """Linear layers and the activations between them, or None when the module is anything else."""
    if any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
        return None
    children = list(module.children()) if type(module) is nn.Sequential else [module]
    children = [c for c in children if type(c) not in (nn.Flatten, nn.Identity)]
    linears, activations = children[::2], children[1::2]
    if len(children) % 2 == 0 or not all(type(c) is nn.Linear for c in linears):
        return None
    if not all(type(c) in ACTIVATIONS and getattr(c, "approximate", "none") == "none" for c in activations):
        return None
    if len({id(c) for c in linears}) < len(linears):
        return None
    return [c for c in linears if isinstance(c, nn.Linear)], [ACTIVATIONS[type(c)] for c in activations]


@dataclass(frozen=True)
class Dense:
    """Batched products for a plain network.

    A layer's weight and bias of all models are one tensor ``(M, out, in + 1)``; activations are stored as
    ``(M, features + 1, b)`` with a last row of ones, so that biases are part of the products. The first layer
    of all models is one ``(M·out, in + 1) x (in + 1, b)`` product. Plain SGD accumulates its gradients inside the
    products; other optimizers take the general functional step.
    """

    least: ClassVar[int] = 8

    linears: list[nn.Linear]
    activations: list[Activation]

    def train(self, recipe: Recipe, weights: Tensor, norm: LossNorm, after_step: Callable[[int], None]) -> Forward:
        """Train all models; see ``Program``."""
        models = len(weights)
        params = [self._augmented(layer, models) for layer in self.linears]
        biases = [layer.bias is not None for layer in self.linears]
        fused = _fusable(recipe) and all(biases)  # a missing bias must stay zero
        update: _Update = _Fused(recipe, params) if fused else _General(recipe, params, biases)
        x = recipe.x.flatten(1)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        targets = recipe.task.encode(recipe.y, params[-1].shape[1], x.dtype)
        by_instance = weights.t().contiguous()
        buffers: dict[int, list[Tensor]] = {}
        for first, last in recipe.batches.spans(SPAN):  # gather many steps' instances at once, then only slice
            start, offsets = recipe.batches.offsets[first], recipe.batches.offsets
            index = torch.from_numpy(recipe.batches.rows[start : offsets[last]]).to(x.device)
            inputs, wanted, w = x[index], targets[index], by_instance[index]
            for step in range(first, last):
                part = slice(offsets[step] - start, offsets[step + 1] - start)
                size = part.stop - part.start
                if size not in buffers:
                    buffers[size] = self._buffers(params, size)
                batch = (inputs[part], wanted[part].t(), _divided(w[part].t(), norm))
                self._step(recipe, params, update, buffers[size], *batch, step)
                after_step(step)
        return lambda inputs: self._forward(params, inputs)

    def _augmented(self, layer: nn.Linear, models: int) -> Tensor:
        bias = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
        both = torch.cat([layer.weight, bias.unsqueeze(1)], 1).detach()
        return both.expand(models, *both.shape).clone()

    def _buffers(self, params: list[Tensor], size: int) -> list[Tensor]:
        """Hidden activations (M, features + 1, size), the last row being ones."""
        return [p.new_ones(len(p), p.shape[1] + 1, size) for p in params[:-1]]

    def _step(
        self,
        recipe: Recipe,
        params: list[Tensor],
        update: _Update,
        hidden: list[Tensor],
        x: Tensor,
        targets: Tensor,
        w: Tensor,
        step: int,
    ) -> None:
        """One update: inputs (b, in + 1), encoded targets (outputs, b), weights (M, b)."""
        models, size = w.shape
        pre = [torch.mm(params[0].flatten(0, 1), x.t()).view(models, -1, size)]
        for layer, activation in enumerate(self.activations):
            activation.forward(pre[layer], hidden[layer][:, :-1])
            pre.append(torch.bmm(params[layer + 1], hidden[layer]))
        delta = recipe.task.residual(pre[-1], targets, -2).mul_(w.unsqueeze(1))  # (M, outputs, b)
        for layer in range(len(params) - 1, 0, -1):
            back = torch.bmm(params[layer][:, :, :-1].transpose(1, 2), delta)
            update.batched(layer, delta, hidden[layer - 1])
            delta = self.activations[layer - 1].backward(back, pre[layer - 1], hidden[layer - 1][:, :-1])
        update.shared(delta, x)
        update.finish(step)

    def _forward(self, params: list[Tensor], inputs: Tensor) -> Tensor:
        x = inputs.flatten(1)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        pre = torch.mm(params[0].flatten(0, 1), x.t()).view(len(params[0]), -1, len(x))
        hidden = self._buffers(params, len(x))
        for layer, activation in enumerate(self.activations):
            activation.forward(pre, hidden[layer][:, :-1])
            pre = torch.bmm(params[layer + 1], hidden[layer])
        return pre.transpose(1, 2)


def _fusable(recipe: Recipe) -> bool:
    o = recipe.optimizer
    plain = isinstance(o, SGD) and not o.nesterov and o.dampening == 0 and o.decay_on == "all"
    return plain and recipe.training.clip_norm is None


class _Update(Protocol):
    """Takes the factors of each layer's gradient and moves the parameters."""

    def batched(self, layer: int, delta: Tensor, inputs: Tensor) -> None: ...

    def shared(self, delta: Tensor, x: Tensor) -> None: ...

    def finish(self, step: int) -> None: ...


class _Fused:
    """SGD with momentum and weight decay; the gradient product accumulates into the momentum buffer."""

    def __init__(self, recipe: Recipe, params: list[Tensor]) -> None:
        assert isinstance(recipe.optimizer, SGD)
        self.recipe, self.params = recipe, params
        self.momentum, self.decay = recipe.optimizer.momentum, recipe.optimizer.weight_decay
        self.buffers = [torch.zeros_like(p) for p in params]

    def _scaled(self, layer: int) -> tuple[Tensor, float]:
        buffer = self.buffers[layer]
        if not self.decay:
            return buffer, self.momentum
        if self.momentum:
            buffer.mul_(self.momentum).add_(self.params[layer], alpha=self.decay)
        else:
            torch.mul(self.params[layer], self.decay, out=buffer)
        return buffer, 1.0

    def batched(self, layer: int, delta: Tensor, inputs: Tensor) -> None:
        buffer, beta = self._scaled(layer)
        buffer.baddbmm_(delta, inputs.transpose(1, 2), beta=beta)

    def shared(self, delta: Tensor, x: Tensor) -> None:
        buffer, beta = self._scaled(0)
        buffer.flatten(0, 1).addmm_(delta.flatten(0, 1), x, beta=beta)

    def finish(self, step: int) -> None:
        lr = self.recipe.lr(step)
        for p, buffer in zip(self.params, self.buffers, strict=True):
            p.add_(buffer, alpha=-lr)


class _General:
    """Any functional optimizer, with clipping; weights and biases are separate tensors to it."""

    def __init__(self, recipe: Recipe, params: list[Tensor], biases: list[bool]) -> None:
        self.recipe, self.params, self.biases = recipe, params, biases
        self.grads = [torch.zeros_like(p) for p in params]
        self.slots: Slots = recipe.optimizer.slots(self._split(params))
        shapes = [t.shape[1:] for t in self._split(params)]
        self.decay = decays(recipe.optimizer, shapes)

    def _split(self, augmented: list[Tensor]) -> list[Tensor]:
        parts = []
        for tensor, bias in zip(augmented, self.biases, strict=True):
            parts += [tensor[:, :, :-1], tensor[:, :, -1]] if bias else [tensor[:, :, :-1]]
        return parts

    def batched(self, layer: int, delta: Tensor, inputs: Tensor) -> None:
        self.grads[layer].baddbmm_(delta, inputs.transpose(1, 2), beta=0)

    def shared(self, delta: Tensor, x: Tensor) -> None:
        self.grads[0].flatten(0, 1).addmm_(delta.flatten(0, 1), x, beta=0)

    def finish(self, step: int) -> None:
        params, grads = self._split(self.params), self._split(self.grads)
        if self.recipe.training.clip_norm is not None:
            grads = clip_each(grads, self.recipe.training.clip_norm)
        lr = [self.recipe.lr(step)] * len(params)
        new, self.slots = self.recipe.optimizer.step(params, grads, self.slots, lr, self.decay, step + 1)
        for p, value in zip(params, new, strict=True):
            p.copy_(value)
