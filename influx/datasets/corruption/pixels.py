"""From brightness to what the model sees: the standardisation of ``Data.x``, recovered from its images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.problem import Data

Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


def white(display: NDArray[Any]) -> float:
    """The brightest value of display images: 255 for 8-bit images, 1 for floats."""
    return 255.0 if display.dtype == np.uint8 else 1.0


def brightness_to_input(data: Data) -> Affine:
    """Slope and offset, each (1, c, h, w), with ``x = offset + slope * display`` for every training image.

    Standardisation is linear per channel, or per pixel where x is flat, so two different brightnesses of a
    channel or pixel determine it. What is constant in train was only centred: its slope is that of [0, 1].
    """
    display = data.display["train"]
    per_pixel = data.train.x.ndim == 2
    x = data.train.x.reshape(display.shape)
    _, channels, height, width = display.shape
    # (instances, units): a unit is what shares one scale.
    order = (0, 1, 2, 3) if per_pixel else (0, 2, 3, 1)
    units = channels * height * width if per_pixel else channels
    seen, given = (a.transpose(order).reshape(-1, units) for a in (display, x))
    unit = np.arange(units)
    low, high = seen.argmin(axis=0), seen.argmax(axis=0)
    dark, bright = seen[low, unit].astype(np.float64), seen[high, unit].astype(np.float64)
    rise = given[high, unit].astype(np.float64) - given[low, unit]
    varies = bright > dark
    slope = np.where(varies, rise / np.where(varies, bright - dark, 1.0), 1.0 / white(display))
    offset = given[low, unit] - slope * dark
    shape = (1, channels, height, width) if per_pixel else (1, channels, 1, 1)
    whole = (1, channels, height, width)
    return np.broadcast_to(slope.reshape(shape), whole), np.broadcast_to(offset.reshape(shape), whole)


def seen_as(data: Data, x: NDArray[Any]) -> NDArray[Any]:
    """Images ``(n, c, h, w)`` in the range of the data's own that the model would see as ``x``."""
    like = data.display["train"]
    slope, offset = brightness_to_input(data)
    shown = np.clip((x.reshape(len(x), *like.shape[1:]) - offset) / slope, 0, white(like))
    return np.asarray(shown.astype(like.dtype))
