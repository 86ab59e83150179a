"""Nets and model choices as users might write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class Own:
    """A model choice that calls a function."""

    make: Callable[[], nn.Module]

    def build(self, data: Data) -> nn.Module:
        del data
        return self.make()


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


class Halved(nn.Sequential):
    """Looks like a plain network and computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return 0.5 * x


def halved() -> nn.Module:
    return Halved(*plain())


def hooked() -> nn.Module:
    net = plain()
    net[0].register_forward_hook(lambda module, args, output: 0.5 * output)
    return net


def pre_hooked() -> nn.Module:
    net = plain()
    net[2].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return net


class Doubled(nn.Identity):
    """Not the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def doubled() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), Doubled(), nn.Tanh(), nn.Linear(4, 3))


def repeated() -> nn.Module:
    inner, turn = nn.Linear(4, 4), nn.Tanh()
    return nn.Sequential(nn.Linear(3, 4), turn, inner, turn, inner, turn, nn.Linear(4, 3))


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    return net


def gradient_hooked() -> nn.Module:
    net = plain()
    net[0].weight.register_hook(lambda gradient: 0.1 * gradient)
    return net


def backward_hooked() -> nn.Module:
    net = plain()
    net[2].register_full_backward_hook(lambda module, into, out: tuple(None if g is None else 0.1 * g for g in into))
    return net


class CalmerInEval(nn.Sequential):
    """Outputs of half the size in eval mode."""

    def __init__(self) -> None:
        super().__init__(*plain())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out if self.training else 0.5 * out


class Centred(nn.Module):
    """Takes the batch's mean away while training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        out: Tensor = self.last((h - h.mean(0) if self.training else h).tanh())
        return out


def untracked() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))


def plain_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


class Branching(nn.Module):
    """Which way it goes depends on its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h.tanh() if h.sum() > 0 else h.sigmoid()
        out: Tensor = self.last(h)
        return out


class FunctionalDropout(nn.Module):
    """Random without a dropout layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(F.dropout(self.first(x), 0.5, self.training))
        return out


def stochastic_depth() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), StochasticDepth(0.5, "row"), nn.Linear(8, 3))


def randomised_relu() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.RReLU(), nn.Linear(4, 3))


def no_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0), nn.Linear(4, 3))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3))


def one_pixel() -> nn.Module:
    """Batch normalisation over images of one pixel, for images of 8 x 8."""
    return nn.Sequential(nn.Conv2d(1, 2, 8), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def many_pixels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 5), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))


def frozen() -> nn.Module:
    net = plain()
    net[0].weight.requires_grad_(False)
    return net
