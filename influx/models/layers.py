"""Activations and normalisation layers by name. None works in place: gradient hooks read layer inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
}
MAX_GROUPS = 8


def activation(name: str) -> nn.Module:
    """A new activation layer."""
    return ACTIVATIONS[name]()


def group_norm(channels: int) -> nn.Module:
    """Group normalisation with the largest power of two up to 8 that divides ``channels`` (Wu and He 2018)."""
    return nn.GroupNorm(math.gcd(channels, MAX_GROUPS), channels)


NORMS: Mapping[str, Callable[[int], nn.Module]] = {"group": group_norm, "batch": nn.BatchNorm2d}


def unrounded(x: Tensor) -> Tensor:
    """In float32 what autocast made in bfloat16: logarithms and sums of which a risk is made would lose too much."""
    return x.float() if x.dtype is torch.bfloat16 and torch.is_autocast_enabled(x.device.type) else x
