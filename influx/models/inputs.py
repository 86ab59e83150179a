"""What a model may expect of a dataset; each refusal names ``model=`` and ``dataset=``."""

from __future__ import annotations

import math

from torch import nn

from influx.errors import IncompatibleError
from influx.problem import Data


def flat_size(data: Data, model: str) -> int:
    """Number of input features per instance, images and other arrays being flattened.

    Raises:
        IncompatibleError: the data are token ids.
    """
    if data.kind == "text":
        raise IncompatibleError(
            f"model={model} expects a table or images, dataset={data.name} holds token ids; choose another dataset"
        )
    return math.prod(data.train.x.shape[1:])


def flatten(data: Data) -> list[nn.Module]:
    """A ``Flatten`` where instances are not vectors already, otherwise nothing."""
    return [] if data.train.x.ndim == 2 else [nn.Flatten()]


def image_size(data: Data, model: str) -> tuple[int, int, int]:
    """Channels, height and width of the images.

    Raises:
        IncompatibleError: the data are not images.
    """
    shape = data.train.x.shape[1:]
    if data.kind != "image" or len(shape) != 3:
        raise IncompatibleError(
            f"model={model} expects images (channels, height, width), dataset={data.name} has {data.kind} data of "
            f"shape {shape} per instance; choose model=mlp, or set dataset.shape=image where the dataset offers it"
        )
    channels, height, width = shape
    return channels, height, width


def check_size(data: Data, model: str, least: int, why: str) -> None:
    """Refuse images with a side under ``least`` pixels.

    Raises:
        IncompatibleError: naming the size and the reason.
    """
    _, height, width = image_size(data, model)
    if min(height, width) < least:
        raise IncompatibleError(
            f"model={model} expects images of at least {least}x{least} pixels because {why}, "
            f"dataset={data.name} has {height}x{width}; choose model=mlp or larger images"
        )


def text_size(data: Data, model: str) -> tuple[int, int]:
    """Number of different tokens, and tokens per text with its padding.

    Raises:
        IncompatibleError: the data are no token ids.
    """
    if data.kind != "text":
        raise IncompatibleError(
            f"model={model} expects token ids, dataset={data.name} has {data.kind} data; choose dataset=text or "
            "docstrings, or model=mlp"
        )
    largest = 0 if data.described else max(int(split.x.max(initial=0)) for split in (data.train, data.test))
    return max(len(data.vocabulary), largest + 1), data.train.x.shape[1]
