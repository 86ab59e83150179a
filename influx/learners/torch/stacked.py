"""Many models in one tensor program: parameters carry a leading axis of models, batches are shared.

Two programs with the same result: ``Vmap`` here takes any module without batch statistics or randomness, ``Dense``
(``dense.py``) writes a plain network as batched products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influx.learners.torch.sequential import Recipe, decays
from influx.problem import LossNorm

Forward = Callable[[Tensor], Tensor]


class Program(Protocol):
    """Trains ``M`` models that start alike and see the same batches with different instance weights.

    ``least`` is the number of models below which it is no faster than one at a time, ``multiple`` what a number of
    models must divide by for a model's bits not to depend on its place.
    """

    least: ClassVar[int]
    multiple: ClassVar[int]

    @property
    def activations(self) -> int:
        """Numbers that a step keeps per model and instance of its batch, as far as known."""
        ...

    def train(self, recipe: Recipe, weights: Tensor, norm: LossNorm, after_step: Callable[[int], None]) -> Forward:
        """Train with ``weights`` (M, n_train); a function from inputs (b, ...) to outputs (M, b, outputs)."""
        ...


def batch_weights(weights: Tensor, index: Tensor, norm: LossNorm) -> Tensor:
    """``(M, b)`` weights of a batch's risks, divided by what the protocol says."""
    return shares(weights[:, index].t(), [len(index)], norm)


def shares(w: Tensor, sizes: list[int], norm: LossNorm) -> Tensor:
    """``(M, n)`` from the weights ``w`` (n, M) of several batches: each divided by its batch's size or weight."""
    if norm == "full":
        divisor = w.new_tensor(sizes).unsqueeze(1)
    else:
        totals = torch.stack([part.sum(0) for part in w.split(sizes)])
        divisor = torch.where(totals > 0, totals, 1)
    return (w / divisor.repeat_interleave(torch.tensor(sizes, device=w.device), 0)).t().contiguous()


def clip_each(grads: list[Tensor], limit: float) -> list[Tensor]:
    """Scale each model's gradient down to norm ``limit``."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in grads])
    factor = (limit / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # (M,)
    return [g * factor.view(-1, *[1] * (g.ndim - 1)) for g in grads]


@dataclass(frozen=True)
class Vmap:
    """``torch.func`` over stacked parameters."""

    least: ClassVar[int] = 2
    multiple: ClassVar[int] = 1

    module: nn.Module

    @property
    def activations(self) -> int:
        """Unknown."""
        return 1

    def train(self, recipe: Recipe, weights: Tensor, norm: LossNorm, after_step: Callable[[int], None]) -> Forward:
        """Train all models; see ``Program``."""
        models = len(weights)
        named = dict(self.module.train().named_parameters())
        names = list(named)
        decay = decays(recipe.optimizer, [p.shape for p in named.values()])
        params = [p.detach().expand(models, *p.shape).clone() for p in named.values()]
        slots = recipe.optimizer.slots(params)

        def loss(params: dict[str, Tensor], w: Tensor, x: Tensor, y: Tensor) -> Tensor:
            outputs = recipe.outputs(lambda x: functional_call(self.module, params, (x,)), x)
            return (recipe.task.loss(outputs, y) * w).sum()

        gradient = vmap(grad(loss), in_dims=(0, 0, None, None))
        for step in range(recipe.total):
            index = torch.from_numpy(recipe.batches[step]).to(recipe.device)
            w = batch_weights(weights, index, norm)
            named_grads = gradient(
                dict(zip(names, params, strict=True)), w, recipe.inputs(index, step), recipe.y[index]
            )
            grads = [named_grads[name] for name in names]
            if recipe.training.clip_norm is not None:
                grads = clip_each(grads, recipe.training.clip_norm)
            lr = [recipe.lr(step)] * len(params)
            params, slots = recipe.optimizer.step(params, grads, slots, lr, decay, step + 1)
            after_step(step)

        self.module.eval()
        final = dict(zip(names, params, strict=True))
        return lambda x: vmap(lambda p: functional_call(self.module, p, (x,)))(final)
