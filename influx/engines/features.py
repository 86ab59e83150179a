"""Learned representations: the input of the linear layer that a net ends in, or the leaves of trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from influx.errors import IncompatibleError
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.pace import tensors_in
from influx.learners.trees.fitted import TreesFitted
from influx.problem import Split

LEAF_BYTES = 4e9  # of the largest table of leaves


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
    """Features of a trained net or of trained trees."""

    fitted: TorchFitted | TreesFitted

    @property
    def net(self) -> TorchFitted:
        """The net.

        Raises:
            IncompatibleError: the model is trees.
        """
        if isinstance(self.fitted, TreesFitted):
            raise IncompatibleError("a net is needed here and the model is trees; choose a model such as model=mlp")
        return self.fitted

    def penultimate(self, split: Split) -> Tensor:
        """``(n, d)`` inputs of a net's head under the final model, or leaves.

        Raises:
            IncompatibleError: the net has no head, or the table of leaves would be too large.
        """
        return _leaves(self.fitted, split) if isinstance(self.fitted, TreesFitted) else _inputs(self.fitted, split)


@torch.no_grad()
def _inputs(fitted: TorchFitted, split: Split) -> Tensor:
    """``(n, d)`` inputs of the head."""
    module = fitted.model()
    kept: list[Tensor] = []

    def keep(layer: nn.Module, args: object, kwargs: object) -> None:
        kept.append(next(tensors_in((args, kwargs))).flatten(1))

    head = head_of(module, fitted.recipe.x[:1].to(fitted.device))[1]
    handle = head.register_forward_pre_hook(keep, with_kwargs=True)
    for part in fitted.parts(split):
        module(part)
    handle.remove()
    return torch.cat(kept)


def _leaves(fitted: TreesFitted, split: Split) -> Tensor:
    """``(n, leaves)`` 1/√T for each leaf that an instance is in, of T trees.

    The product of two instances is the share of the trees that put both into one leaf.
    """
    grown, leaves = fitted.leaves(fitted.predictor.data.train), fitted.leaves(split)
    sizes = fitted.ensemble.values(grown).sizes
    if leaves.shape[1] > 1 and leaves.strides[1] == 0:  # one tree for all outputs
        sizes, leaves = sizes[:, :1], leaves[:, :1]
    width = int(sizes.sum())
    if 8.0 * len(split) * width > LEAF_BYTES:
        raise IncompatibleError(
            f"leaves as features take {8e-9 * len(split) * width:.0f} GB here ({len(split)} instances x {width} "
            "leaves); grow fewer or smaller trees, or set estimator.features=raw"
        )
    first = (np.cumsum(sizes.ravel()) - sizes.ravel()).reshape(sizes.shape)
    place = (leaves + first[..., None]).reshape(-1, len(split)).T
    found = np.zeros((len(split), width))
    np.put_along_axis(found, place, 1 / np.sqrt(place.shape[1]), 1)
    return torch.from_numpy(found)
