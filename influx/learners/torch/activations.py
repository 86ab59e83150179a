"""Elementwise functions between the layers of many stacked models, and the products with their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its derivative's product, both without new memory.

    ``forward(pre, out)`` fills ``out`` from ``scale`` times its argument, so that the product before it does the
    scaling; ``backward(gradient, pre, out, into)`` multiplies ``gradient`` by the derivative.
    """

    forward: Callable[[Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor], object]
    scale: float = 1.0


@cache
def _minus_one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(-1.0, dtype=dtype, device=device)


def _tanh(pre: Tensor, out: Tensor) -> None:
    """tanh(z) = 2 σ(2z) - 1: the same to rounding, and on many processors several times as fast as ``torch.tanh``."""
    torch.sigmoid(pre, out=out)
    torch.add(_minus_one(out.dtype, out.device), out, alpha=2, out=out)


aten = torch.ops.aten
ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(
        _tanh, lambda g, pre, out, into: aten.tanh_backward.grad_input(g, out, grad_input=into), scale=2.0
    ),
    nn.ReLU: Activation(
        lambda pre, out: torch.clamp(pre, min=0, out=out),
        lambda g, pre, out, into: aten.threshold_backward.grad_input(g, pre, 0, grad_input=into),
    ),
    nn.Sigmoid: Activation(
        lambda pre, out: torch.sigmoid(pre, out=out),
        lambda g, pre, out, into: aten.sigmoid_backward.grad_input(g, out, grad_input=into),
    ),
    nn.GELU: Activation(
        lambda pre, out: aten.gelu.out(pre, out=out),
        lambda g, pre, out, into: aten.gelu_backward.grad_input(g, pre, grad_input=into),
    ),
    nn.SiLU: Activation(
        lambda pre, out: aten.silu.out(pre, out=out),
        lambda g, pre, out, into: aten.silu_backward.grad_input(g, pre, grad_input=into),
    ),
}
