"""ResNet-9, the small residual network that is usual for CIFAR."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from influx.errors import ConfigError
from influx.models.inputs import check_size, image_size
from influx.models.layers import ACTIVATIONS, NORMS, activation
from influx.models.settings import check_choice
from influx.problem import Data

BASE_CHANNELS = 64


class Residual(nn.Module):
    """``x + block(x)``."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Shape is kept."""
        out: Tensor = x + self.block(x)
        return out


@dataclass(frozen=True, kw_only=True)
class ResNet9:
    """Eight convolutions in three halving stages, two of them with a residual block, and a linear head.

    Maps ``(b, channels, height, width) -> (b, n_outputs)``. Source: Page 2018, "How to train your ResNet", with two
    differences: the last pooling is adaptive, so that any size from 8x8 works (at 32x32 it is the original), and the
    head has a bias and no fixed scale. ``width`` multiplies the channels 64, 128, 256 and 512. ``norm=group`` keeps
    instances independent of their batch; ``batch`` is the original.
    """

    norm: str = "group"
    width: float = 1.0
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Check ranges."""
        check_choice("norm", self.norm, NORMS)
        check_choice("activation", self.activation, ACTIVATIONS)
        number = isinstance(self.width, (int, float)) and not isinstance(self.width, bool)
        if not number or not 1 / BASE_CHANNELS <= self.width <= 64:
            raise ConfigError(
                f"model.width must be a number from 1/{BASE_CHANNELS} to 64 that multiplies {BASE_CHANNELS} channels, "
                f"got {self.width!r}; set for example model.width=0.5"
            )

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are not images, or the images are under 8x8 pixels.
        """
        check_size(data, "resnet9", 8, "it halves them three times")
        channels, _, _ = image_size(data, "resnet9")
        c = round(BASE_CHANNELS * self.width)
        return nn.Sequential(
            self._convolution(channels, c),
            nn.Sequential(self._convolution(c, 2 * c), nn.MaxPool2d(2), self._residual(2 * c)),
            nn.Sequential(self._convolution(2 * c, 4 * c), nn.MaxPool2d(2)),
            nn.Sequential(self._convolution(4 * c, 8 * c), nn.MaxPool2d(2), self._residual(8 * c)),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * c, data.n_outputs),
        )

    def _convolution(self, channels_in: int, channels_out: int) -> nn.Sequential:
        # no bias: the normalisation that follows has one
        convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        return nn.Sequential(convolution, NORMS[self.norm](channels_out), activation(self.activation))

    def _residual(self, channels: int) -> Residual:
        return Residual(nn.Sequential(self._convolution(channels, channels), self._convolution(channels, channels)))
