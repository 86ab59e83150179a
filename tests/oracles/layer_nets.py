"""Nets with layers of every kind, and what is known of the ways that their gradients take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Make = Callable[[], nn.Module]
N, TOKENS = 5, 7


class Net(nn.Module):
    """Some layers, what to do with them, and a head."""

    def __init__(self, function: Callable[..., Tensor], width: int, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.function(self, x).flatten(1))
        return out


def single(layer: nn.Module, width: int) -> Make:
    return lambda: Net(lambda net, x: net.layer(x).tanh(), width, layer=layer)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def tied(net: nn.Module, x: Tensor) -> Tensor:
    """Embedding and softmax with one weight."""
    hidden = net.mix(net.embed(x)).tanh()
    return F.linear(hidden, net.embed.weight).softmax(-1)


def windows(net: nn.Module, x: Tensor) -> Tensor:
    """A linear layer on pieces of a sequence, which are in the first dimension with the instances."""
    return net.layer(x.reshape(2 * len(x), 3, 4)).tanh().reshape(len(x), -1)


def frames(net: nn.Module, x: Tensor) -> Tensor:
    """A convolution on several images per instance."""
    return net.layer(x.flatten(0, 1)).tanh().reshape(len(x), -1)


def attend(mask: str | None, **settings: bool) -> Callable[..., Tensor]:
    def function(net: nn.Module, x: Tensor) -> Tensor:
        size = x.shape[1] if net.attention.batch_first else x.shape[0]
        masks = {
            "causal": nn.Transformer.generate_square_subsequent_mask(size, dtype=x.dtype),
            "boolean": torch.ones(size, size, dtype=torch.bool).triu(1),
            None: None,
        }
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[:, -1] = True
        given = {"key_padding_mask": padding} if settings.get("padded") else {}
        weights = settings.get("weights", False)
        mixed, scores = net.attention(x, x, x, need_weights=weights, attn_mask=masks[mask], **given)
        return mixed + scores.sum(-1, keepdim=True) if weights else mixed

    return function


def attention(mask: str | None = None, **settings: bool) -> Make:
    return lambda: Net(
        attend(mask, **settings), 12, attention=nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)
    )


def length_first(net: nn.Module, x: Tensor) -> Tensor:
    x = x.transpose(0, 1)
    return net.attention(x, x, x, need_weights=False)[0].transpose(0, 1)


def encoded(net: nn.Module, x: Tensor) -> Tensor:
    mask = torch.ones(3, 3, dtype=torch.bool).triu(1)
    padding = torch.zeros(len(x), 3, dtype=torch.bool)
    padding[:, 2] = x[:, 0, 0] > 0
    return net.layer(x, src_mask=mask, src_key_padding_mask=padding)


def transformer(**settings: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, **settings)


def with_token(net: nn.Module, x: Tensor) -> Tensor:
    """A class token, a positional embedding and a scale, as vision transformers have them."""
    x = torch.cat([net.token.expand(len(x), -1, -1), x], 1) + net.position
    return (net.inner(x).tanh() * net.scale - net.shift).tanh()


def recurrent(kind: type[nn.RNNBase], **settings: Any) -> Make:
    def function(net: Any, x: Tensor) -> Tensor:
        outputs, state = net.layer(x if net.layer.batch_first else x.transpose(0, 1))
        ends = state[1] if isinstance(state, tuple) else state
        outputs = outputs if net.layer.batch_first else outputs.transpose(0, 1)
        return torch.cat([outputs.flatten(1), ends.transpose(0, 1).flatten(1)], 1)

    layers, both = settings.get("num_layers", 1), settings.get("bidirectional", False)
    width = 3 * 5 * (1 + both) + layers * (1 + both) * 5
    return lambda: Net(function, width, layer=kind(4, 5, **settings))


SEQUENCE, TABLE = (3, 4), (4,)
COVERED: dict[str, tuple[Make, tuple[int, ...]]] = {
    "called twice": (
        lambda: Net(lambda net, x: net.layer(net.layer(x).tanh()).tanh(), 4, layer=nn.Linear(4, 4)),
        TABLE,
    ),
    "called twice on lengths of two kinds": (
        lambda: Net(lambda net, x: net.layer(x).tanh().sum(1) + net.layer(x[:, 0]), 5, layer=nn.Linear(4, 5)),
        SEQUENCE,
    ),
    "convolution called twice": (
        lambda: Net(
            lambda net, x: net.layer(net.layer(x).tanh()).tanh(), 32, layer=nn.Conv2d(2, 2, 3, padding=1, bias=False)
        ),
        (2, 4, 4),
    ),
    "bias of another layer": (
        lambda: Net(
            lambda net, x: F.linear(net.a(x), net.b.weight, net.a.bias), 4, a=nn.Linear(4, 4), b=nn.Linear(4, 4)
        ),
        TABLE,
    ),
    "windows": (lambda: Net(windows, 30, layer=nn.Linear(4, 5)), (6, 4)),
    "frames": (lambda: Net(frames, 2 * 3 * 4, layer=nn.Conv2d(2, 3, 3)), (2, 2, 4, 4)),
    "sequence in place": (single(nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True)), 15), SEQUENCE),
    "product": (lambda: Net(lambda net, x: (x @ net.weight).tanh(), 15, weight=parameter(4, 5)), SEQUENCE),
    "product and sum": (
        lambda: Net(lambda net, x: torch.addmm(net.b, x, net.a).tanh(), 5, a=parameter(4, 5), b=parameter(5)),
        TABLE,
    ),
    "linear and product with one weight": (
        lambda: Net(lambda net, x: (net.layer(x).tanh() @ net.layer.weight).tanh(), 4, layer=nn.Linear(4, 6)),
        TABLE,
    ),
    "embedding": (single(nn.Embedding(TOKENS, 4), 12), (3,)),
    "embedding with padding": (single(nn.Embedding(TOKENS, 4, padding_idx=2), 12), (3,)),
    "embedding with negative padding": (single(nn.Embedding(TOKENS, 4, padding_idx=-1), 12), (3,)),
    "sparse embedding": (single(nn.Embedding(TOKENS, 4, sparse=True), 12), (3,)),
    "tied embedding and softmax": (
        lambda: Net(tied, 3 * TOKENS, embed=nn.Embedding(TOKENS, 4), mix=nn.Linear(4, 4)),
        (3,),
    ),
    "token, positions, scale": (
        lambda: Net(
            with_token,
            16,
            token=parameter(1, 1, 4),
            position=parameter(1, 4, 4),
            inner=nn.Linear(4, 4),
            scale=parameter(4),
            shift=parameter(4, 4),
        ),
        SEQUENCE,
    ),
    "bilinear": (lambda: Net(lambda net, x: net.layer(x, x.sin()).tanh(), 15, layer=nn.Bilinear(4, 4, 5)), SEQUENCE),
    "prelu": (single(nn.PReLU(3), 12), SEQUENCE),
    "attention": (attention(), SEQUENCE),
    "attention with a boolean mask": (attention("boolean", weights=True), SEQUENCE),
    "padded attention": (attention(None, padded=True), SEQUENCE),
    "padded and masked attention": (attention("boolean", padded=True, weights=True), SEQUENCE),
    "attention, length first": (
        lambda: Net(length_first, 12, attention=nn.MultiheadAttention(4, 2, bias=False)),
        SEQUENCE,
    ),
    "transformer layer": (single(transformer(), 12), SEQUENCE),
    "transformer layer, norm first": (single(transformer(norm_first=True), 12), SEQUENCE),
    "transformer layer, masked": (lambda: Net(encoded, 12, layer=transformer()), SEQUENCE),
    "transformer": (single(nn.TransformerEncoder(transformer(), 2, enable_nested_tensor=False), 12), SEQUENCE),
    **{
        f"{kind.__name__} {settings}": (recurrent(kind, **settings), SEQUENCE)
        for kind in (nn.GRU, nn.LSTM, nn.RNN)
        for settings in ({}, {"num_layers": 2, "bidirectional": True, "bias": kind is nn.LSTM}, {"batch_first": True})
    },
    "relu recurrence": (recurrent(nn.RNN, nonlinearity="relu"), SEQUENCE),
    "lstm cell": (
        lambda: Net(lambda net, x: net.cell(x[:, 0], net.cell(x[:, 1]))[1], 5, cell=nn.LSTMCell(4, 5)),
        SEQUENCE,
    ),
    "rms norm": (single(nn.RMSNorm(4, eps=0.1), 12), SEQUENCE),
    "instance norm": (single(nn.InstanceNorm1d(3, affine=True), 12), SEQUENCE),
    "conv1d same padding": (single(nn.Conv1d(3, 2, 4, padding="same", dilation=3), 14), (3, 7)),
    "conv1d replicate": (single(nn.Conv1d(3, 2, 3, padding=1, padding_mode="replicate"), 14), (3, 7)),
    "conv2d reflect": (single(nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"), 108), (2, 4, 4)),
    "conv2d circular, same": (
        single(nn.Conv2d(2, 3, (2, 3), padding="same", padding_mode="circular"), 48),
        (2, 4, 4),
    ),
    "conv2d of many channels": (single(nn.Conv2d(17, 3, 3, padding=1), 48), (17, 4, 4)),
    "conv2d of many channels, strided": (
        single(nn.Conv2d(16, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2)), 80),
        (16, 5, 5),
    ),
    "conv2d of many channels twice": (
        lambda: Net(lambda net, x: net.layer(net.layer(x).tanh()), 64, layer=nn.Conv2d(16, 16, 2)),
        (16, 4, 4),
    ),
    "transposed 2d of many channels": (single(nn.ConvTranspose2d(2, 16, 2, stride=2), 256), (2, 2, 2)),
    "conv3d grouped": (single(nn.Conv3d(2, 4, 2, groups=2), 4 * 8), (2, 3, 3, 3)),
    "transposed 1d": (single(nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), 56), (3, 7)),
    "transposed 2d": (
        single(
            nn.ConvTranspose2d(4, 6, 3, stride=(3, 2), padding=1, output_padding=(2, 1), dilation=(2, 1), groups=2), 288
        ),
        (4, 2, 3),
    ),
    "transposed 3d": (single(nn.ConvTranspose3d(2, 2, 2, stride=2), 128), (2, 2, 2, 2)),
}


class Unseen(torch.autograd.Function):
    """Multiplies by a weight where nothing can see it."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        return g @ weight.T, x.T @ g


def unseen(net: nn.Module, x: Tensor) -> Tensor:
    hidden: Tensor = Unseen.apply(net.inner(x).tanh(), net.weight)
    return hidden.tanh() * net.scale


PARTLY: dict[str, tuple[Make, tuple[int, ...], set[str], str]] = {  # net, instance, free parameters, their way
    "used by a function that hides it": (
        lambda: Net(unseen, 4, inner=nn.Linear(4, 4), weight=parameter(4, 4), scale=parameter(4)),
        TABLE,
        {"weight"},
        "loop",
    ),
    "used once more in an unknown way": (
        lambda: Net(lambda net, x: net.layer(x).tanh() * net.layer.weight.sum(1), 5, layer=nn.Linear(4, 5)),
        TABLE,
        {"layer.weight"},
        "vmap",
    ),
    "weight norm": (
        lambda: Net(
            lambda net, x: net.layer(net.first(x).tanh()), 5, first=nn.Linear(4, 4), layer=weight_norm(nn.Linear(4, 5))
        ),
        TABLE,
        {"layer.parametrizations.weight.original0", "layer.parametrizations.weight.original1"},
        "vmap",
    ),
    "cross attention": (
        lambda: Net(
            lambda net, x: net.attention(x, x.tanh(), x.tanh())[0],
            12,
            attention=nn.MultiheadAttention(4, 2, batch_first=True),
        ),
        SEQUENCE,
        {f"attention.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")},
        "vmap",
    ),
    "instances last": (
        lambda: Net(lambda net, x: net.layer(x.transpose(0, 1)).transpose(0, 1), 15, layer=nn.Linear(4, 5)),
        SEQUENCE,
        {"layer.weight", "layer.bias"},
        "vmap",
    ),
}


def always_dropping(net: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(net.layer(x), 0.5)


def noisy(net: nn.Module, x: Tensor) -> Tensor:
    return net.layer(x) + torch.randn_like(x[:, :1])


def sharing() -> nn.Module:
    net = Net(lambda net, x: net.b(net.a(x)), 4, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    net.b.weight = nn.Parameter(net.a.weight.data)
    return net


REFUSED: dict[str, tuple[Make, str]] = {
    "dropout": (lambda: Net(always_dropping, 5, layer=nn.Linear(4, 5)), "dropout is active in eval mode"),
    "noise": (lambda: Net(noisy, 5, layer=nn.Linear(4, 5)), "Net draws random numbers in eval mode"),
    "batch statistics": (single(nn.BatchNorm1d(4, track_running_stats=False), 4), "statistics of the batch"),
}
