"""Per-instance gradients of one layer, kept as the factors that they are made of.

A layer that sees ``L`` positions per instance (1 for a table, tokens of a sequence, pixels of a feature map) has
the gradient ``Σ_s g_s a_sᵀ``: output gradients times inputs. Dot products of such gradients need either the sums
written out (``flat``) or only products of inputs and of output gradients; the cheaper of the two is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

PATCH_BYTES = 64 << 20  # unfolded inputs of a convolution at a time


class LayerRows(Protocol):
    """Gradients of ``b`` instances with respect to one layer's parameters."""

    def dot(self, other: LayerRows) -> Tensor:
        """All dot products with another block of the same layer, ``(b, m)``."""
        ...

    def squares(self) -> Tensor:
        """Squared norms, ``(b,)``."""
        ...

    def flat(self) -> Tensor:
        """The gradients written out, ``(b, p)``, in the order of the layer's parameters."""
        ...

    def tensors(self) -> list[LayerRows]:
        """The same for each parameter alone, in the order of the layer's parameters."""
        ...


@dataclass(frozen=True)
class Flat:
    """Gradients written out, ``(b, p)``; ``sizes`` are those of the parameters (one when empty)."""

    rows: Tensor
    sizes: tuple[int, ...] = ()

    def dot(self, other: LayerRows) -> Tensor:
        """One product of matrices."""
        return self.rows @ other.flat().T

    def squares(self) -> Tensor:
        """Row sums of squares."""
        return self.rows.square().sum(1)

    def flat(self) -> Tensor:
        """Themselves."""
        return self.rows

    def tensors(self) -> list[LayerRows]:
        """Columns of each parameter."""
        return [Flat(part) for part in self.rows.split(self.sizes, 1)] if self.sizes else [self]


@dataclass
class Outer:
    """``Σ_s g_s a_sᵀ`` (and ``Σ_s g_s`` for a bias) by its factors: inputs (b, L, d_in), gradients (b, L, d_out)."""

    inputs: Tensor
    gradients: Tensor
    bias: bool

    def dot(self, other: LayerRows) -> Tensor:
        """By factors when L² (d_in + d_out) < d_in d_out, written out otherwise."""
        positions, d_in = self.inputs.shape[1:]
        d_out = self.gradients.shape[2]
        if not isinstance(other, Outer) or positions**2 * (d_in + d_out) >= d_in * d_out:
            return self.flat() @ other.flat().T
        if positions == 1:
            similar = self.inputs[:, 0] @ other.inputs[:, 0].T
            if self.bias:
                similar += 1
            return similar.mul_(self.gradients[:, 0] @ other.gradients[:, 0].T)
        b, m = len(self.inputs), len(other.inputs)
        similar = self.inputs.flatten(0, 1) @ other.inputs.flatten(0, 1).T  # (b L, m L)
        if self.bias:
            similar += 1
        similar *= self.gradients.flatten(0, 1) @ other.gradients.flatten(0, 1).T
        return similar.view(b, positions, m, positions).sum((1, 3))

    def squares(self) -> Tensor:
        """Squared norms, by factors when there is one position."""
        if self.inputs.shape[1] > 1:
            return self._written.square().sum(1)
        inputs = self.inputs[:, 0].square().sum(1) + float(self.bias)
        return inputs * self.gradients[:, 0].square().sum(1)

    def flat(self) -> Tensor:
        """Weight gradient row by row, then the bias gradient."""
        return self._written

    def tensors(self) -> list[LayerRows]:
        """Weight by its factors, bias written out."""
        weight = Outer(self.inputs, self.gradients, bias=False)
        return [weight, Flat(self.gradients.sum(1))] if self.bias else [weight]

    @cached_property
    def _written(self) -> Tensor:
        weight = torch.bmm(self.gradients.transpose(1, 2), self.inputs).flatten(1)
        return torch.cat([weight, self.gradients.sum(1)], 1) if self.bias else weight


@dataclass
class Convolved:
    """A convolution: inputs and output gradients as they were; unfolded or written out when asked."""

    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d
    inputs: Tensor
    gradients: Tensor

    def dot(self, other: LayerRows) -> Tensor:
        """By factors for few positions and many channels, written out otherwise."""
        positions = self.gradients[0, 0].numel()
        d_out, d_in = self.layer.weight.shape[0], self.layer.weight[0].numel()
        few = positions**2 * (d_in + d_out) < d_in * d_out
        if few and isinstance(other, Convolved) and isinstance(self.layer, nn.Conv2d) and self.layer.groups == 1:
            return self._outer.dot(other._outer)
        return self._written @ other.flat().T

    def squares(self) -> Tensor:
        """Squared norms of the gradients written out."""
        return self._written.square().sum(1)

    def flat(self) -> Tensor:
        """Weight gradient, then the bias gradient."""
        return self._written

    def tensors(self) -> list[LayerRows]:
        """Columns of weight and bias."""
        sizes = tuple(p.numel() for p in self.layer.parameters())
        return Flat(self._written, sizes).tensors()

    @cached_property
    def _outer(self) -> Outer:
        layer = cast(nn.Conv2d, self.layer)
        return Outer(
            _patches(layer, self.inputs).transpose(1, 2),
            self.gradients.flatten(2).transpose(1, 2),
            layer.bias is not None,
        )

    @cached_property
    def _written(self) -> Tensor:
        layer = self.layer
        weights = self._unfolded() if isinstance(layer, nn.Conv2d) else self._by_convolution()
        biases = [self.gradients.flatten(2).sum(2)] if layer.bias is not None else []
        return torch.cat([weights, *biases], 1)

    def _unfolded(self) -> Tensor:
        """Weight gradients of a 2d convolution as products of matrices, some instances at a time."""
        layer = cast(nn.Conv2d, self.layer)
        numbers = self.gradients[0, 0].numel() * self.inputs.shape[1] * layer.weight[0, 0].numel()  # of one's patches
        pieces = max(PATCH_BYTES // (numbers * self.inputs.element_size()), 1)
        made = []
        for inputs, gradients in zip(self.inputs.split(pieces), self.gradients.split(pieces), strict=True):
            patches = _patches(layer, inputs).unflatten(1, (layer.groups, -1))  # (b, groups, d_in, L)
            by_group = gradients.flatten(2).unflatten(1, (layer.groups, -1))  # (b, groups, d_out, L)
            made.append(torch.matmul(by_group, patches.transpose(2, 3)).flatten(1))
        return torch.cat(made)

    def _by_convolution(self) -> Tensor:
        layer = self.layer
        weight_gradient = (conv1d_weight, conv2d_weight, conv3d_weight)[self.inputs.ndim - 3]

        def one(x: Tensor, g: Tensor) -> Tensor:
            gradient: Tensor = weight_gradient(  # type: ignore[no-untyped-call]
                x[None],
                layer.weight.shape,
                g[None],
                stride=layer.stride,
                padding=_padding(layer),
                dilation=layer.dilation,
                groups=layer.groups,
            )
            return gradient

        return vmap(one)(self.inputs, self.gradients).flatten(1)


def _patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """What each position of a convolution sees, ``(b, channels x kernel, L)``."""
    return F.unfold(inputs, layer.kernel_size, layer.dilation, cast(tuple[int, int], _padding(layer)), layer.stride)


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    assert not isinstance(layer.padding, str)
    return layer.padding


def _linear(layer: nn.Module, a: Tensor, g: Tensor) -> LayerRows:
    positions = (len(a), -1)
    return Outer(a.reshape(*positions, a.shape[-1]), g.reshape(*positions, g.shape[-1]), layer.bias is not None)


def _convolution(layer: nn.Module, a: Tensor, g: Tensor) -> LayerRows:
    return Convolved(cast(nn.Conv2d, layer), a, g)


def _affine(layer: nn.Module, normalised: Tensor, g: Tensor, channels_first: bool) -> LayerRows:
    product = normalised * g
    if channels_first:  # (b, c, ...)
        parts = [product.flatten(2).sum(2), g.flatten(2).sum(2)] if g.ndim > 2 else [product, g]
    else:  # (b, ..., *normalized_shape)
        shape = cast(Tensor, layer.weight).shape
        parts = [t.reshape(len(t), -1, shape.numel()).sum(1) for t in (product, g)]
    parts = parts if layer.bias is not None else parts[:1]
    return Flat(torch.cat(parts, 1), tuple(part.shape[1] for part in parts))


def _layer_norm(layer: nn.Module, a: Tensor, g: Tensor) -> LayerRows:
    norm = cast(nn.LayerNorm, layer)
    return _affine(layer, F.layer_norm(a, norm.normalized_shape, eps=norm.eps), g, channels_first=False)


def _group_norm(layer: nn.Module, a: Tensor, g: Tensor) -> LayerRows:
    norm = cast(nn.GroupNorm, layer)
    return _affine(layer, F.group_norm(a, norm.num_groups, eps=norm.eps), g, channels_first=True)


def _batch_norm(layer: nn.Module, a: Tensor, g: Tensor) -> LayerRows:
    norm = cast(nn.BatchNorm2d, layer)
    normalised = F.batch_norm(a, norm.running_mean, norm.running_var, eps=norm.eps)
    return _affine(layer, normalised, g, channels_first=True)


Handler = Callable[[nn.Module, Tensor, Tensor], LayerRows]
HANDLERS: dict[type[nn.Module], Handler] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
}


def handler_for(layer: nn.Module) -> Handler | None:
    """How to write a layer's gradients by factors, or None when only autograd knows."""
    names = [name for name, _ in layer.named_parameters(recurse=False)]
    if names not in (["weight"], ["weight", "bias"]):  # a weight made of other parameters, as weight_norm leaves it
        return None
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return HANDLERS.get(type(layer)) if plain else None
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not layer.track_running_stats:
        return None
    return HANDLERS.get(type(layer))


@contextmanager
def in_float64(module: nn.Module) -> Iterator[None]:
    """The module computes in float64 inside, and is what it was afterwards, bit by bit."""
    kept = [(t, t.data) for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    try:
        for tensor, data in kept:
            tensor.data = data.double()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def mix(outputs: Tensor, x: Tensor) -> Tensor:
    """Weights of an instance's outputs, the same whatever the instance."""
    return torch.linspace(1, 2, outputs.shape[1], dtype=outputs.dtype, device=outputs.device).expand_as(outputs)


def noise_like(x: Tensor, module: nn.Module) -> Tensor:
    """One more instance, without the zeros of real ones: Gaussian, or a given one where numbers are indices."""
    if not x.is_floating_point() or any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in module.modules()):
        return x[:1]
    own = torch.Generator().manual_seed(0)
    return torch.randn(x[:1].shape, generator=own, dtype=x.dtype).to(x.device)
