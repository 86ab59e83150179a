"""Variational autoencoders of fully connected layers, for tables and small images."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from influx.errors import ConfigError
from influx.models.inputs import flat_size
from influx.models.latent import Latent, LatentDensity
from influx.models.layers import activation
from influx.models.settings import check_counts
from influx.problem import Data


class Perceptron(nn.Module):
    """Hidden layers with one activation and a linear last one, on numbers with the label behind them."""

    def __init__(self, sizes: list[int], name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes[:-1]):
            layers += [nn.Linear(size_in, size_out), activation(name)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))

    def forward(self, given: Tensor, labels: Tensor) -> Tensor:
        """``(n, ..., d) -> (n, ..., outputs)``; labels (n, classes) are repeated along the dimensions between."""
        if labels.shape[1]:
            known = labels.reshape(len(labels), *[1] * (given.ndim - 2), labels.shape[1])
            given = torch.cat([given, known.expand(*given.shape[:-1], -1)], -1)
        found: Tensor = self.layers(given)
        return found


@dataclass(frozen=True, kw_only=True)
class VAE(Latent):
    """A β-variational autoencoder; the risk is a bound of -log p(x) in nats. See ``LatentDensity``.

    Source: Kingma & Welling 2014; Higgins et al. 2017 (beta). Images are flattened. ``width`` lists the widths of the
    encoder's hidden layers, which the decoder has in reverse; [] makes both linear. The other settings are those of
    ``Latent``.
    """

    name: ClassVar[str] = "vae"

    width: list[int] = field(default_factory=lambda: [64])

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not isinstance(self.width, (list, tuple)):
            raise ConfigError(f"model.width must be a list of widths, got {self.width!r}; set for example [64]")
        if self.width:
            check_counts("width", self.width)

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are token ids, or outside the range of the likelihood.
        """
        size, labels = flat_size(data, self.name), len(data.classes) if self.conditional else 0
        self.check_range(data)
        encoder = Perceptron([size + labels, *self.width, 2 * self.latent], self.activation)
        decoder = Perceptron([self.latent + labels, *reversed(self.width), size], self.activation)
        return LatentDensity(self, encoder, decoder, data)
