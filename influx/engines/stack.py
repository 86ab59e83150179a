"""Many parameter vectors of one net at once: outputs ``(K, n, outputs)`` of ``(K, p)`` parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from influx.learners.torch.activations import ACTIVATIONS
from influx.learners.torch.dense import dense_layers


@dataclass(frozen=True)
class Stack:
    """A module in eval mode as a function of its flattened parameters, in the order of ``module.parameters()``."""

    module: nn.Module

    @cached_property
    def _named(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.module.named_parameters()}

    @cached_property
    def _dense(self) -> tuple[list[nn.Linear], list[nn.Module]] | None:
        """Layers of a plain network and what stands between them."""
        layers = dense_layers(self.module)
        functions = [m for m in self.module._modules.values() if m is not None and type(m) in ACTIVATIONS]
        return (layers[0], functions) if layers else None

    @property
    def theta(self) -> Tensor:
        """``(p,)`` the module's own parameters."""
        return torch.cat([p.flatten() for p in self._named.values()])

    def outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        """``(K, n, outputs)`` for ``theta`` (K, p) and shared inputs ``x`` (n, ...); differentiable in ``theta``."""
        params = self._split(theta)
        if self._dense is not None:
            return _dense_outputs(*self._dense, list(params.values()), x)
        stacked: Tensor = vmap(self._call, in_dims=(0, None))(params, x)
        return stacked

    def paired(self, theta: Tensor, x: Tensor) -> Tensor:
        """``(K, outputs)`` for ``theta`` (K, p) and an instance of its own for each, ``x`` (K, ...)."""
        stacked: Tensor = vmap(self._call)(self._split(theta), x.unsqueeze(1))
        return stacked[:, 0]

    def _split(self, theta: Tensor) -> dict[str, Tensor]:
        pieces = theta.split([p.numel() for p in self._named.values()], 1)
        pairs = zip(self._named.items(), pieces, strict=True)
        return {name: piece.reshape(-1, *p.shape) for (name, p), piece in pairs}

    def _call(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = functional_call(self.module, dict(self.module.named_buffers()) | params, (x,))
        return result


def _dense_outputs(layers: list[nn.Linear], functions: list[nn.Module], params: list[Tensor], x: Tensor) -> Tensor:
    """Activations lie as ``(K, features, n)``; the first layer of all models is one product."""
    given, hidden = iter(params), x.flatten(1).t()
    for number, layer in enumerate(layers):
        weight, bias = next(given), next(given).unsqueeze(2) if layer.bias is not None else None
        if number == 0:
            hidden = (weight.reshape(-1, weight.shape[2]) @ hidden).view(len(weight), weight.shape[1], -1)
            hidden = hidden if bias is None else hidden + bias
        else:
            hidden = weight @ hidden if bias is None else torch.baddbmm(bias, weight, hidden)
        if number < len(functions):
            hidden = functions[number](hidden)
    return hidden.transpose(1, 2)
