"""A trigger: the same patch of an image, or the same values of columns, on many instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.pixels import brightness_to_input
from influx.datasets.settings import check_choice, check_count, names
from influx.errors import ConfigError, IncompatibleError, did_you_mean
from influx.problem import Data

POSITIONS = ("top_left", "top_right", "bottom_left", "bottom_right")
Stamp = Callable[[NDArray[Any], NDArray[np.int64]], NDArray[Any]]  # (array, rows) -> copy with the trigger on the rows


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """What is put on instances; the fields are those of the corruption ``who`` that uses it."""

    who: str
    size: int
    position: str
    value: float
    features: Sequence[str] | None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_count("corruption.size", self.size if self.size is not None else 0)
        check_choice("corruption.position", self.position, POSITIONS)
        names("corruption.features", self.features)
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not 0 <= self.value <= 1:
            raise ConfigError(f"corruption.value must be a number from 0 to 1, got {self.value!r}; correct it")

    def put(self, data: Data, part: str, rows: NDArray[np.int64]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """``x`` and ``display`` with the trigger on some rows of the split ``part``: train or test.

        Raises:
            ConfigError: the trigger does not fit the data.
            IncompatibleError: it is of another kind than the data.
        """
        stamp, stamp_display = self._stamps(data)
        split, display = data.train if part == "train" else data.test, dict(data.display)
        if display:
            display[part] = stamp_display(display[part], rows)
        return stamp(split.x, rows), display

    def _stamps(self, data: Data) -> tuple[Stamp, Stamp]:
        """The trigger on what the model sees, and on the images for display."""
        if self.features is not None:
            return self._column_stamp(data), _unchanged
        if not data.display or data.kind == "text":
            raise IncompatibleError(
                f"corruption={self.who} puts a patch on images, but {data.name} has none to show; set "
                f"corruption.features to the columns of the trigger"
            )
        return self._patch_stamps(data)

    def _column_stamp(self, data: Data) -> Stamp:
        columns = names("corruption.features", self.features)
        if data.train.x.ndim != 2 or data.display:
            raise IncompatibleError(
                f"corruption.features names table columns, but {data.name} has none; set corruption.features=null"
            )
        for column in columns:
            if column not in data.features:
                hint = did_you_mean(column, data.features)
                raise ConfigError(f"{data.name} has no column {column!r}{hint}; correct corruption.features")
        if not columns:
            raise ConfigError("corruption.features is empty; name at least one column or set it to null")
        chosen = np.array([data.features.index(column) for column in columns])
        low, high = data.train.x[:, chosen].min(axis=0), data.train.x[:, chosen].max(axis=0)
        trigger = (low + self.value * (high - low)).astype(np.float32)

        def stamp(x: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
            x = x.copy()
            x[np.ix_(rows, chosen)] = trigger
            return x

        return stamp

    def _patch_stamps(self, data: Data) -> tuple[Stamp, Stamp]:
        shown = data.display["train"]
        height, width = shown.shape[2:]
        if self.size > min(height, width):
            raise ConfigError(
                f"corruption.size={self.size} is larger than the {height} by {width} images of {data.name}; lower it"
            )
        top = slice(0, self.size) if self.position.startswith("top") else slice(height - self.size, height)
        left = slice(0, self.size) if self.position.endswith("left") else slice(width - self.size, width)
        brightness = round(self.value * 255) if shown.dtype == np.uint8 else self.value
        slope, offset = brightness_to_input(data)
        trigger = (offset + slope * brightness)[0, :, top, left].astype(np.float32)  # (c, size, size)

        def stamp(x: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
            x = x.copy()
            images = x.reshape(len(x), *shown.shape[1:])  # a view, also where x is flat
            images[rows, :, top, left] = trigger
            return x

        def stamp_display(images: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
            images = images.copy()
            images[rows, :, top, left] = brightness
            return images

        return stamp, stamp_display


def _unchanged(images: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    return images
