"""Learned representations: the input of the linear layer that a model ends in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from influx.errors import IncompatibleError
from influx.learners.torch.fitted import TorchFitted, chunks
from influx.learners.torch.pace import tensors_in
from influx.problem import Split


def head_of(module: nn.Module, x: Tensor) -> tuple[str, nn.Linear]:
    """The linear layer whose output is the model's, and its name.

    ``module`` is in eval mode. It is run on the instance ``x`` (1, ...), since layers need not be registered in the
    order of their calls.

    Raises:
        IncompatibleError: the model does not end in a linear layer, or calls that layer more than once.
    """
    head = _last_called(module, x)
    names = [name for name, m in module.named_modules() if m is head]
    if not names or head is None:
        raise IncompatibleError("the model must end in a linear layer to use it as a head; choose another model")
    return names[0], head


@torch.no_grad()
def _last_called(module: nn.Module, x: Tensor) -> nn.Linear | None:
    """The linear layer called last, if it is called once and what it returns comes out unchanged."""
    calls: list[tuple[nn.Module, Tensor]] = []

    def mark(layer: nn.Module, args: object, output: Tensor) -> Tensor:
        # Numbers of both signs, others at every call: a function after the layer or another layer's output shows.
        start = -3 - 1 / (1 + len(calls))
        calls.append((layer, torch.linspace(start, 2, output.numel()).to(output).view_as(output)))
        return calls[-1][1].clone()

    hooks = [m.register_forward_hook(mark) for m in module.modules() if isinstance(m, nn.Linear)]
    try:
        result = module(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not calls or not isinstance(result, Tensor) or not torch.equal(result, calls[-1][1]):
        return None
    last = calls[-1][0]
    return last if isinstance(last, nn.Linear) and [layer for layer, _ in calls].count(last) == 1 else None


@dataclass(frozen=True)
class Features:
    """Features of a trained net."""

    fitted: TorchFitted

    @torch.no_grad()
    def penultimate(self, split: Split) -> Tensor:
        """``(n, d)`` inputs of the head under the final model."""
        module = self.fitted.model()
        kept: list[Tensor] = []

        def keep(layer: nn.Module, args: object, kwargs: object) -> None:
            kept.append(next(tensors_in((args, kwargs))).flatten(1))

        head = head_of(module, self.fitted.recipe.x[:1])[1]
        handle = head.register_forward_pre_hook(keep, with_kwargs=True)
        x, _ = self.fitted.tensors(split)
        for chunk in chunks(x):
            module(chunk)
        handle.remove()
        return torch.cat(kept)
