"""Many plain networks of linear layers as batched products: the first layer of all of them is one product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from influx.learners.torch.activations import ACTIVATIONS, Activation
from influx.learners.torch.inputs import carried
from influx.learners.torch.optimizers import SGD, Slots
from influx.learners.torch.sequential import Recipe, decays
from influx.learners.torch.stacked import Forward, clip_each, shares
from influx.learners.torch.tasks import Task
from influx.learners.torch.traits import has_parameter_hooks
from influx.problem import LossNorm

SPAN = 4096  # instances gathered at a time


def dense_layers(module: nn.Module) -> tuple[list[nn.Linear], list[Activation]] | None:
    """Linear layers and the activations between them, or None when the module is anything else.

    A module or parameter used twice, any hook, and weights that are no parameters (frozen ones) make it something else.
    """
    if _is_hooked(module):
        return None
    children = list(module._modules.values()) if type(module) is nn.Sequential else [module]
    children = [c for c in children if type(c) not in (nn.Flatten, nn.Identity)]
    linears, activations = children[::2], children[1::2]
    if len(children) % 2 == 0 or not all(type(c) is nn.Linear for c in linears):
        return None
    if not all(type(c) in ACTIVATIONS and getattr(c, "approximate", "none") == "none" for c in activations):
        return None
    if any(name in c._buffers for c in linears if c is not None for name in ("weight", "bias")):
        return None
    used = [id(p) for c in linears if c is not None for p in c.parameters()]
    if len(set(used)) < len(used):
        return None
    return [c for c in linears if isinstance(c, nn.Linear)], [ACTIVATIONS[type(c)] for c in activations]


def _is_hooked(module: nn.Module) -> bool:
    """True when something watches or changes what passes through the module or its parameters."""
    forward = any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    return forward or has_parameter_hooks(module)


@dataclass(frozen=True)
class Dense:
    """Batched products for a plain network.

    A layer's weight and bias of all models are one tensor ``(M, out, in + 1)``; activations are stored as
    ``(M, features + 1, b)`` with a last row of ones, so that biases are part of the products. The first layer
    of all models is one product with the shared batch. Before hidden layers its tensors lie in memory with the models
    and outputs innermost, ``(b, in + 1) x (in + 1, M·out)``, which is a quarter faster; a single layer keeps
    ``(M·out, in + 1) x (in + 1, b)``, in whose outputs the softmax is fast. Plain SGD accumulates its gradients inside
    the products; other optimizers take the general functional step.
    """

    least: ClassVar[int] = 8
    multiple: ClassVar[int] = 12  # products are tiled in 4, 8 or 12 columns; the rest is added up in another order

    linears: list[nn.Linear]
    functions: list[Activation]

    @property
    def activations(self) -> int:
        """Outputs before and after the activation, and their gradients."""
        return 3 * sum(layer.out_features for layer in self.linears)

    def train(self, recipe: Recipe, weights: Tensor, norm: LossNorm, after_step: Callable[[int], None]) -> Forward:
        """Train all models; see ``Program``."""
        models = len(weights)
        everything, params = _joined([self._augmented(layer, models) for layer in self.linears])
        biases = [layer.bias is not None for layer in self.linears]
        fused = _fusable(recipe) and all(biases)  # a missing bias must stay zero
        update: _Update = _Fused(recipe, everything, params) if fused else _General(recipe, params, biases)
        x = recipe.x.flatten(1)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        targets = recipe.task.encode(recipe.y, params[-1].shape[1], x.dtype)
        by_instance = weights.t().contiguous()
        memory: dict[int, _Memory] = {}
        for first, last in recipe.batches.spans(SPAN):  # gather many steps' instances at once, then only slice
            start, offsets = recipe.batches.offsets[first], recipe.batches.offsets
            rows = torch.from_numpy(recipe.batches.rows[start : offsets[last]])
            index = rows.to(recipe.device)
            sizes = np.diff(offsets[first : last + 1]).tolist()
            taken = carried(x[rows.to(x.device)], recipe.device)
            batches = zip(
                taken.split(sizes),
                taken.t().split(sizes, 1),
                [t.t().contiguous() for t in targets[index].split(sizes)],
                shares(by_instance[index], sizes, norm).unsqueeze(1).split(sizes, 2),
                strict=True,
            )
            for step, (size, batch) in enumerate(zip(sizes, batches, strict=True), first):
                if size not in memory:
                    memory[size] = _Memory(params, size)
                self._step(recipe.task, memory[size], update, *batch)
                update.finish(step)
                after_step(step)
        return lambda inputs: self._forward(params, inputs)

    def _augmented(self, layer: nn.Linear, models: int) -> Tensor:
        bias = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
        both = torch.cat([layer.weight, bias.unsqueeze(1)], 1).detach()
        return both.expand(models, *both.shape).clone()

    def _step(
        self, task: Task, at: _Memory, update: _Update, x: Tensor, turned: Tensor, targets: Tensor, w: Tensor
    ) -> None:
        """Gradients of one batch: inputs (b, in + 1) and turned, encoded targets (outputs, b), weights (M, 1, b)."""
        scales = [*(a.scale for a in self.functions), 1.0]
        factors = (x, at.first) if self.functions else (at.first, turned)
        torch.addmm(at.first_pre, *factors, beta=0, alpha=scales[0], out=at.first_pre)
        for layer, activation in enumerate(self.functions):
            activation.forward(at.pre[layer], at.inner[layer])
            pre = at.pre[layer + 1]
            torch.baddbmm(pre, at.params[layer + 1], at.hidden[layer], beta=0, alpha=scales[layer + 1], out=pre)
        task.residual(at.pre[-1], targets, -2, out=at.deltas[-1]).mul_(w)
        for layer in range(len(self.functions) - 1, -1, -1):
            left, right, out, gradient = at.back[layer]
            torch.bmm(left, right, out=out)
            update.batched(layer + 1, at.deltas[layer + 1], at.turned[layer])
            self.functions[layer].backward(gradient, at.pre[layer], at.inner[layer], at.deltas[layer])
        update.shared(*((turned, at.first_delta) if self.functions else (at.first_delta, x)))

    def _forward(self, params: list[Tensor], inputs: Tensor) -> Tensor:
        x = inputs.flatten(1)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        at = _Memory(params, len(x))
        torch.mm(*((x, at.first) if self.functions else (at.first, x.t())), out=at.first_pre)
        for layer, activation in enumerate(self.functions):
            activation.forward(at.pre[layer].mul_(activation.scale), at.inner[layer])
            torch.bmm(params[layer + 1], at.hidden[layer], out=at.pre[layer + 1])
        return at.pre[-1].transpose(1, 2)


class _Memory:
    """What the steps with batches of one size write to and read, with the views of it that they use.

    Made once: fresh pages in every step cost more than the arithmetic, and every call into torch, even for a view,
    hands the interpreter's lock to another thread. Per layer ``pre`` and ``deltas`` (M, out, b); of hidden layers
    ``hidden`` (M, out + 1, b) with a last row of ones, ``inner`` without it and ``turned`` (M, b, out + 1), and
    ``back``: the factors of the gradient (M, out, b) of its outputs, where their product goes, and that as gradient.
    ``first…`` are the first layer's with models and outputs on one axis.
    """

    def __init__(self, params: list[Tensor], size: int) -> None:
        models, wide = len(params[0]), len(params) > 1
        self.params, self.first = params, _flat(params[0], wide)
        self.pre = [_empty(p, p.shape[1], size, wide and p is params[0]) for p in params]
        self.deltas = [torch.empty_like(p) for p in self.pre]
        self.first_pre, self.first_delta = _flat(self.pre[0], wide), _flat(self.deltas[0], wide)
        self.hidden = [_empty(p, p.shape[1] + 1, size, p is params[0]).fill_(1) for p in params[:-1]]
        self.inner = [h[:, :-1] for h in self.hidden]
        self.turned = [h.transpose(1, 2) for h in self.hidden]
        self.back = [
            (p[:, :, :-1].transpose(1, 2), delta, into, into)
            for p, delta, into in zip(params[1:], self.deltas[1:], self.deltas[:-1], strict=True)
        ]
        if wide:  # products are written in order of models, the first layer's gradient is not
            product = params[0].new_empty(models, size, params[0].shape[1])
            self.back[0] = (self.deltas[1].transpose(1, 2), params[1][:, :, :-1], product, product.transpose(1, 2))


def _empty(like: Tensor, features: int, size: int, innermost: bool) -> Tensor:
    """``(M, features, size)``; with models and features ``innermost`` in memory, or as it stands."""
    if innermost:
        return like.new_empty(size, len(like), features).permute(1, 2, 0)
    return like.new_empty(len(like), features, size)


def _flat(tensor: Tensor, innermost: bool) -> Tensor:
    """A view of ``(M, out, k)`` with models and outputs on one axis: (k, M·out) if they are ``innermost``."""
    return tensor.permute(2, 0, 1).view(tensor.shape[2], -1) if innermost else tensor.view(-1, tensor.shape[2])


def _joined(tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """All numbers in one tensor, and tensors (M, out, in + 1) like the given ones that are parts of it."""
    first = tensors[0].permute(2, 0, 1) if len(tensors) > 1 else tensors[0]
    stored = [first, *tensors[1:]]
    everything = torch.cat([t.flatten() for t in stored])
    parts = everything.split([t.numel() for t in stored])
    views = [part.view(t.shape) for part, t in zip(parts, stored, strict=True)]
    return everything, [views[0].permute(1, 2, 0) if len(tensors) > 1 else views[0], *views[1:]]


def _fusable(recipe: Recipe) -> bool:
    o = recipe.optimizer
    plain = isinstance(o, SGD) and not o.nesterov and o.dampening == 0 and o.decay_on == "all"
    return plain and recipe.training.clip_norm is None


class _Update(Protocol):
    """Takes the factors of each layer's gradient and moves the parameters."""

    def batched(self, layer: int, delta: Tensor, turned: Tensor) -> None:
        """Output gradients (M, out, b) of a later layer and its inputs (M, b, in + 1)."""

    def shared(self, left: Tensor, right: Tensor) -> None:
        """The factors of the first layer's gradient, with models and outputs on one axis."""

    def finish(self, step: int) -> None:
        """Move the parameters."""


class _Fused:
    """SGD with momentum and weight decay; the gradient product accumulates into the momentum buffer."""

    def __init__(self, recipe: Recipe, everything: Tensor, params: list[Tensor]) -> None:
        assert isinstance(recipe.optimizer, SGD)
        self.recipe, self.everything, self.params = recipe, everything, params
        self.momentum, self.decay = recipe.optimizer.momentum, recipe.optimizer.weight_decay
        self.velocity, self.buffers = _joined([torch.zeros_like(p) for p in params])
        self.first = _flat(self.buffers[0], len(params) > 1)

    def _scaled(self, layer: int) -> tuple[Tensor, float]:
        buffer = self.buffers[layer]
        if not self.decay:
            return buffer, self.momentum
        if self.momentum:
            buffer.mul_(self.momentum).add_(self.params[layer], alpha=self.decay)
        else:
            torch.mul(self.params[layer], self.decay, out=buffer)
        return buffer, 1.0

    def batched(self, layer: int, delta: Tensor, turned: Tensor) -> None:
        buffer, beta = self._scaled(layer)
        buffer.baddbmm_(delta, turned, beta=beta)

    def shared(self, left: Tensor, right: Tensor) -> None:
        self.first.addmm_(left, right, beta=self._scaled(0)[1])

    def finish(self, step: int) -> None:
        self.everything.add_(self.velocity, alpha=-self.recipe.lr(step))


class _General:
    """Any functional optimizer, with clipping; weights and biases are separate tensors to it."""

    def __init__(self, recipe: Recipe, params: list[Tensor], biases: list[bool]) -> None:
        self.recipe, self.params, self.biases = recipe, params, biases
        self.grads = _joined([torch.zeros_like(p) for p in params])[1]
        self.first = _flat(self.grads[0], len(params) > 1)
        self.slots: Slots = recipe.optimizer.slots(self._split(params))
        shapes = [t.shape[1:] for t in self._split(params)]
        self.decay = decays(recipe.optimizer, shapes)

    def _split(self, augmented: list[Tensor]) -> list[Tensor]:
        parts = []
        for tensor, bias in zip(augmented, self.biases, strict=True):
            parts += [tensor[:, :, :-1], tensor[:, :, -1]] if bias else [tensor[:, :, :-1]]
        return parts

    def batched(self, layer: int, delta: Tensor, turned: Tensor) -> None:
        self.grads[layer].baddbmm_(delta, turned, beta=0)

    def shared(self, left: Tensor, right: Tensor) -> None:
        self.first.addmm_(left, right, beta=0)

    def finish(self, step: int) -> None:
        params, grads = self._split(self.params), self._split(self.grads)
        if self.recipe.training.clip_norm is not None:
            grads = clip_each(grads, self.recipe.training.clip_norm)
        lr = [self.recipe.lr(step)] * len(params)
        new, self.slots = self.recipe.optimizer.step(params, grads, self.slots, lr, self.decay, step + 1)
        for p, value in zip(params, new, strict=True):
            p.copy_(value)
