"""Classifiers of torchvision by name, trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from influx.errors import ConfigError, IncompatibleError, did_you_mean
from influx.models.inputs import image_size
from influx.problem import Data

RGB = 3
# the auxiliary heads of these two return a tuple while training; init_weights keeps torchvision's own initialisation
WITHOUT_AUXILIARY_HEADS: Mapping[str, Any] = {"aux_logits": False, "init_weights": True}


@cache
def architectures() -> tuple[str, ...]:
    """Names of torchvision's image classifiers, sorted."""
    return tuple(sorted(models.list_models(module=models)))


class GreyToRGB(nn.Module):
    """Repeats the only channel three times: ``(b, 1, h, w) -> (b, 3, h, w)``."""

    def forward(self, x: Tensor) -> Tensor:
        """A view, no copy."""
        return x.expand(-1, RGB, -1, -1)


@dataclass(frozen=True, kw_only=True)
class Torchvision:
    """A torchvision classifier with random weights: ``(b, 3, height, width) -> (b, n_outputs)``.

    Grey images are repeated over the three channels. Activation layers are switched from in-place to out-of-place,
    which changes no value. Most architectures were designed for 224x224; one that cannot take the dataset's size
    is refused.
    """

    architecture: str = "resnet18"

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.architecture not in architectures():
            raise ConfigError(
                f"model.architecture must be a torchvision classifier, got {self.architecture!r}"
                f"{did_you_mean(str(self.architecture), architectures())}; choose from: {', '.join(architectures())}"
            )

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are not images with 1 or 3 channels, or of a size that does not fit.
        """
        channels, height, width = image_size(data, "torchvision")
        if channels not in (1, RGB):
            raise IncompatibleError(
                f"model=torchvision expects images with 1 or 3 channels, dataset={data.name} has {channels}; "
                f"choose model=cnn or model=resnet9"
            )
        try:
            options = self._options(height, width)
            network: nn.Module = models.get_model(
                self.architecture, weights=None, num_classes=data.n_outputs, **options
            )
        except (AssertionError, ValueError) as error:  # how the transformers refuse a size
            raise self._refusal(data, error) from error
        for layer in network.modules():
            if hasattr(layer, "inplace"):
                layer.inplace = False  # type: ignore[assignment]
        if channels == 1:
            network = nn.Sequential(GreyToRGB(), network)
        self._probe(network, data)
        return network

    def _options(self, height: int, width: int) -> dict[str, Any]:
        name = self.architecture
        if name in ("googlenet", "inception_v3"):
            return dict(WITHOUT_AUXILIARY_HEADS)
        if name.startswith("maxvit"):
            return {"input_size": (height, width)}
        if name.startswith("vit"):
            if height != width:
                raise ValueError("images must be square")
            return {"image_size": height}
        return {}

    def _probe(self, network: nn.Module, data: Data) -> None:
        """One blank image through the network, so that an unsuitable size stops before any training."""
        network.eval()
        try:
            with torch.no_grad():
                network(torch.zeros(1, *data.train.x.shape[1:]))
        except (AssertionError, RuntimeError) as error:
            raise self._refusal(data, error) from error
        network.train()

    def _refusal(self, data: Data, error: Exception) -> IncompatibleError:
        _, height, width = data.train.x.shape[1:]
        reason = str(error).strip().splitlines()[0].rstrip(".")
        return IncompatibleError(
            f"model.architecture={self.architecture} cannot take the {height}x{width} images of dataset={data.name} "
            f"({reason}); choose model=resnet9, model.architecture=resnet18 or larger images"
        )
