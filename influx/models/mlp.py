"""Fully connected networks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from influx.errors import ConfigError
from influx.models.inputs import flat_size, flatten
from influx.models.layers import ACTIVATIONS, activation
from influx.models.settings import check_choice, check_count, check_counts, check_flag, check_fraction
from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class MLP:
    """Hidden layers with one activation, then a linear head: ``(b, ...) -> (b, n_outputs)``.

    ``width`` is the width of each of ``depth`` hidden layers, or a list with one width per hidden layer.
    The default is small and smooth on purpose: with ReLU and large steps the effect of leaving one instance out
    is chaotic, and then no method can estimate it.
    """

    width: int | list[int] = 32
    depth: int = 1
    activation: str = "tanh"
    bias: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check_count("depth", self.depth)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_flag("bias", self.bias)
        check_fraction("dropout", self.dropout)
        if isinstance(self.width, int):
            check_count("width", self.width)
            return
        check_counts("width", self.width)
        if self.depth not in (1, len(self.width)):
            raise ConfigError(
                f"model.depth must be 1 or the length of model.width={self.width}, got {self.depth}; "
                f"drop model.depth or give one width for all layers"
            )

    @property
    def widths(self) -> list[int]:
        """Widths of the hidden layers, first to last."""
        return [self.width] * self.depth if isinstance(self.width, int) else list(self.width)

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are token ids.
        """
        sizes = [flat_size(data, "mlp"), *self.widths]
        layers = flatten(data)
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out, bias=self.bias), activation(self.activation)]
            if self.dropout > 0:
                layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(sizes[-1], data.n_outputs, bias=self.bias))
