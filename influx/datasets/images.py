"""From 8-bit images to ``Data``: subset, standardise per channel, keep the images for display."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.scale import BY_TRAINING
from influx.datasets.split import subset_rows
from influx.problem import Data, Split

LEVELS = 256
BLOCK = 1024  # images counted at a time: bounds the memory of the statistics


@dataclass(frozen=True, kw_only=True)
class Images:
    """``pixels`` (n, channels, height, width) uint8, class indices ``y`` (n,) and ``ids`` (n,) in the source."""

    pixels: NDArray[np.uint8]
    y: NDArray[np.int64]
    ids: NDArray[np.int64]


def choose(
    train: Images, test: Images, *, name: str, n_classes: int, n_train: int | None, n_test: int | None, seed: int
) -> tuple[Images, Images]:
    """Stratified subsets of a source that has its own split, still 8-bit; ids stay."""

    def some(images: Images, wanted: int | None, part: str) -> Images:
        if wanted is None:
            return images
        rows = subset_rows(images.y, len(images.y), wanted, part=part, name=name, n_classes=n_classes, seed=seed)
        return Images(pixels=images.pixels[rows], y=images.y[rows], ids=images.ids[rows])

    return some(train, n_train, "train"), some(test, n_test, "test")


def image_data(
    train: Images,
    test: Images,
    *,
    name: str,
    classes: tuple[str, ...],
    standardize: bool,
    notes: tuple[str, ...] = (),
) -> Data:
    """Float images in [0, 1], or standardised by the mean and deviation of each channel of the training images.

    ``display`` keeps the 8-bit images. A pixel has 256 values, so conversion is a table look-up and the
    statistics come from exact counts; only the float32 result is ever as large as the data.
    """
    channels = train.pixels.shape[1]
    values = np.broadcast_to(np.arange(LEVELS) / (LEVELS - 1), (channels, LEVELS))  # (channels, 256)
    if standardize:
        mean, std = channel_statistics(train.pixels)
        values = (values - mean[:, None]) / std[:, None]
        notes = (*notes, f"Images, per channel, {BY_TRAINING}.")
    table = values.astype(np.float32)
    return Data(
        name=name,
        task="classification",
        kind="image",
        train=Split(x=_look_up(table, train.pixels), y=train.y, ids=train.ids),
        test=Split(x=_look_up(table, test.pixels), y=test.y, ids=test.ids),
        classes=classes,
        display={"train": train.pixels, "test": test.pixels},
        notes=notes,
    )


def channel_statistics(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation (channels,) of pixels / 255; the deviation of a constant channel is given as 1."""
    level = np.arange(LEVELS) / (LEVELS - 1)
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        counts = np.zeros(LEVELS, np.int64)
        for start in range(0, len(pixels), BLOCK):
            counts += np.bincount(pixels[start : start + BLOCK, channel].ravel(), minlength=LEVELS)
        share = counts / counts.sum()
        mean = float(share @ level)
        constant = np.count_nonzero(counts) == 1
        means.append(mean)
        deviations.append(1.0 if constant else float(np.sqrt(share @ (level - mean) ** 2)))
    return np.array(means), np.array(deviations)


def _look_up(table: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[Any]:
    x = np.empty(pixels.shape, np.float32)
    for channel, values in enumerate(table):
        for start in range(0, len(pixels), BLOCK):  # an index array of the whole would be 8 bytes a pixel
            block = slice(start, start + BLOCK)
            x[block, channel] = values[pixels[block, channel]]
    return x
