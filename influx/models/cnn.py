"""Plain convolutional networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from influx.errors import ConfigError
from influx.models.inputs import check_size, image_size
from influx.models.layers import ACTIVATIONS, NORMS, activation
from influx.models.settings import check_choice, check_count, check_counts
from influx.problem import Data

POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


@dataclass(frozen=True, kw_only=True)
class CNN:
    """Blocks of convolution, normalisation, activation and 2x2 pooling, one hidden layer, a linear head.

    Maps ``(b, channels, height, width) -> (b, n_outputs)``; each block halves height and width (rounding down).
    ``channels`` lists the output channels of the blocks. The defaults are smooth: see ``MLP``.
    """

    channels: list[int] = field(default_factory=lambda: [32, 64])
    kernel_size: int = 3
    activation: str = "gelu"
    norm: str = "none"
    pool: str = "avg"
    hidden: int = 128

    def __post_init__(self) -> None:
        """Check ranges."""
        check_counts("channels", self.channels)
        check_count("kernel_size", self.kernel_size)
        if self.kernel_size % 2 == 0:
            raise ConfigError(
                f"model.kernel_size must be odd so that convolutions keep the image size, got {self.kernel_size}; "
                f"set model.kernel_size={self.kernel_size + 1}"
            )
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("norm", self.norm, ["none", *NORMS])
        check_choice("pool", self.pool, POOLS)
        check_count("hidden", self.hidden)

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are not images, or the images are too small to be halved once per block.
        """
        blocks = len(self.channels)
        check_size(data, "cnn", 2**blocks, f"model.channels has {blocks} blocks that each halve them")
        channels, height, width = image_size(data, "cnn")
        layers = [layer for pair in pairwise([channels, *self.channels]) for layer in self._block(*pair)]
        flat = self.channels[-1] * (height >> blocks) * (width >> blocks)
        hidden = [nn.Flatten(), nn.Linear(flat, self.hidden), activation(self.activation)]
        return nn.Sequential(*layers, *hidden, nn.Linear(self.hidden, data.n_outputs))

    def _block(self, channels_in: int, channels_out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels_in, channels_out, self.kernel_size, padding=self.kernel_size // 2)
        norm = [] if self.norm == "none" else [NORMS[self.norm](channels_out)]
        return [convolution, *norm, activation(self.activation), POOLS[self.pool](2)]
