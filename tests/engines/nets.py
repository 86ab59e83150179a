"""Nets and model choices as users might write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models import VisionTransformer
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


class Pruned(nn.Sequential):
    """Leaves out the smaller weights of the first layer, as they were when it went from training to evaluation."""

    def __init__(self) -> None:
        super().__init__(*plain())
        self.register_buffer("mask", torch.ones(4, 3), persistent=False)

    def train(self, mode: bool = True) -> Pruned:
        if self.training and not mode:
            weight = self[0].weight.detach()
            self.mask.copy_(weight.abs() > weight.abs().median())
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.linear(x, self[0].weight * self.mask, self[0].bias)
        out: Tensor = self[2](self[1](hidden))
        return out


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


class AgainAfterRelu(nn.Module):
    """A layer whose weight is used once more, on what the layer returns where that is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.linear(self.inner(x).relu(), self.inner.weight))
        return out


class FaintlyAgain(AgainAfterRelu):
    """The same, with little effect on the outputs beside that of another layer."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x) + 1e-6 * F.linear(self.inner(x).relu(), self.inner.weight)[:, :3]
        return out


class Deep(nn.Module):
    """Residual blocks, and a layer whose gradient is zero but for rounding: softmax does not see a common shift."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(12)]
        self.blocks, self.shift, self.head = nn.ModuleList(blocks), nn.Linear(16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.head(10 * F.softmax(x + self.shift(x), 1))
        return out


class Single(nn.Module):
    """Computes in single precision, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x.float()).tanh())
        return out


class OneHot(nn.Module):
    """Takes two numbers below four."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(F.one_hot(x, 4).flatten(1).to(self.last.weight)).tanh())
        return out


class HeadFirst(nn.Module):
    """Registers its layers in another order than it calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.first = nn.Linear(5, 3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.first(x)))
        return out


class Residual(HeadFirst):
    """Adds its input to what the last layer returns."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class Auxiliary(nn.Module):
    """Calls another linear layer after the one whose output it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x)
        self.other(x)
        return out


class CalledTwice(nn.Module):
    """Ends in a layer that it has called before."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.layer(x).tanh())
        return out


def ends_in_relu() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    nn.init.constant_(net[0].bias, 100.0)  # one instance alone would not show it
    return net


HEADLESS = [halved, ends_in_relu, Residual, Auxiliary, CalledTwice, nn.Identity]


def normed_head() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), weight_norm(nn.Linear(4, 3)))


class Attentive(nn.Module):
    """Attention returns a pair; its output projection is never called as a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.attention(query=x, key=x, value=x)[0].mean(1))
        return out


class Recurrent(nn.Module):
    """An LSTM returns a pair that holds a pair, and vmap does not know it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


class Named(nn.Module):
    """Calls its layers with arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(input=self.first(input=x).tanh())
        return out


class Pair(nn.Module):
    """A layer of one's own that takes a dict and returns a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 4))

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, None]:
        return self.scale * given["x"], None


class Paired(nn.Module):
    """Uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pair, self.last = nn.Linear(3, 4), Pair(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.pair({"x": self.first(x)})[0].tanh())
        return out


class Detached(nn.Module):
    """Its outputs are cut off from its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out.detach()


def vision_transformer() -> nn.Module:
    return VisionTransformer(8, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=3)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(20, 3))


def weight_normed() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 3))


def weight_normed_by_hooks() -> nn.Module:
    """As torch's older ``weight_norm`` does it: a weight that is no parameter, made before every call."""
    first = nn.Linear(3, 4)
    length = nn.Parameter(torch.linspace(0.5, 2, 4)[:, None])
    direction = nn.Parameter(first.weight.detach().clone())
    del first.weight
    first.register_parameter("length", length)
    first.register_parameter("direction", direction)

    def make(module: nn.Module, args: object) -> None:
        module.weight = F.normalize(module.direction, dim=1) * module.length

    first.register_forward_pre_hook(make)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(4, 3))


ODD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (Attentive, (5, 4)),
    "recurrent": (Recurrent, (5, 3)),
    "arguments by name": (Named, (3,)),
    "pair": (Paired, (3,)),
    "vision transformer": (vision_transformer, (3, 8, 8)),
    "transformer encoder": (encoder, (5, 4)),
    "weight norm": (weight_normed, (3,)),
    "weight norm of the head": (normed_head, (3,)),
    "weight norm by hooks": (weight_normed_by_hooks, (3,)),
}
