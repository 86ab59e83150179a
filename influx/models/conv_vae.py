"""Variational autoencoders of convolutions, for images."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from influx.errors import ConfigError
from influx.models.inputs import check_size, image_size
from influx.models.latent import Latent, LatentDensity
from influx.models.layers import activation
from influx.models.settings import check_count, check_counts
from influx.problem import Data


class Encoder(nn.Module):
    """Halving convolutions, then a linear layer that also reads the label."""

    def __init__(self, model: ConvVAE, sizes: list[tuple[int, int, int]], labels: int) -> None:
        super().__init__()
        self.image = sizes[0]
        layers: list[nn.Module] = []
        for (channels_in, _, _), (channels_out, _, _) in pairwise(sizes):
            kernel = model.kernel_size
            layers += [
                nn.Conv2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2),
                activation(model.activation),
            ]
        self.body = nn.Sequential(*layers)
        channels, height, width = sizes[-1]
        self.last = nn.Linear(channels * height * width + labels, 2 * model.latent)

    def forward(self, rows: Tensor, labels: Tensor) -> Tensor:
        """``(n, d) -> (n, 2 k)``."""
        seen = self.body(rows.reshape(len(rows), *self.image)).flatten(1)
        found: Tensor = self.last(torch.cat([seen, labels], 1))
        return found


class Decoder(nn.Module):
    """A linear layer that also reads the label, then doubling: nearest neighbours and a convolution."""

    def __init__(self, model: ConvVAE, sizes: list[tuple[int, int, int]], labels: int) -> None:
        super().__init__()
        self.small = sizes[-1]
        channels, height, width = sizes[-1]
        self.first = nn.Linear(model.latent + labels, channels * height * width)
        layers: list[nn.Module] = []
        for (channels_in, _, _), (channels_out, height, width) in pairwise(reversed(sizes)):
            layers += [
                activation(model.activation),
                nn.Upsample(size=(height, width)),
                nn.Conv2d(channels_in, channels_out, model.kernel_size, padding=model.kernel_size // 2),
            ]
        self.body = nn.Sequential(*layers)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """``(n, R, k) -> (n, R, d)``: draws are images of their own."""
        n, draws, _ = latents.shape
        known = labels[:, None].expand(n, draws, labels.shape[1])
        first = self.first(torch.cat([latents, known], -1)).reshape(n * draws, *self.small)
        found: Tensor = self.body(first)
        return found.reshape(n, draws, -1)


@dataclass(frozen=True, kw_only=True)
class ConvVAE(Latent):
    """A β-variational autoencoder of images; the risk is a bound of -log p(x) in nats. See ``LatentDensity``.

    ``channels`` are those of the encoder's convolutions, each of which halves the image (rounding up); the decoder has
    them in reverse. ``kernel_size`` is odd. The other settings are those of ``Latent``. The risk
    is a sum over pixels, which share their weights, so that SGD wants small steps: on digits optimizer.lr=0.003.
    """

    name: ClassVar[str] = "conv_vae"

    channels: list[int] = field(default_factory=lambda: [16, 32])
    kernel_size: int = 3

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_counts("channels", self.channels)
        check_count("kernel_size", self.kernel_size)
        if self.kernel_size % 2 == 0:
            raise ConfigError(
                f"model.kernel_size must be odd, got {self.kernel_size}; set model.kernel_size={self.kernel_size + 1}"
            )

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are not images, too small, or outside the range of the likelihood.
        """
        blocks = len(self.channels)
        check_size(data, self.name, 2**blocks, f"model.channels has {blocks} convolutions that each halve them")
        self.check_range(data)
        sizes, labels = [image_size(data, self.name)], len(data.classes) if self.conditional else 0
        for channels in self.channels:
            _, height, width = sizes[-1]
            sizes.append((channels, -(-height // 2), -(-width // 2)))
        return LatentDensity(self, Encoder(self, sizes, labels), Decoder(self, sizes, labels), data)
