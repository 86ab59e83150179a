"""Changed copies of training instances: images moved by a part of a pixel, or inputs with noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.pixels import brightness_to_input
from influx.errors import ConfigError
from influx.problem import Data, Split
from influx.run import Run

Transform = Literal["shift", "noise"]
AMOUNT = "metric.augmentation.amount"
LOUD = 10
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))  # down, up, right, left, …


def unfit(transform: Transform, data: Data) -> str:
    """Why the instances cannot be changed this way, or nothing."""
    if transform == "shift" and data.train.x.ndim != 4 and ("train" not in data.display or data.kind == "text"):
        return "these are no images, which could be moved; set metric.augmentation.transform=noise"
    if transform == "noise" and not np.issubdtype(data.train.x.dtype, np.floating):
        return "noise takes inputs that are numbers, and these are tokens"
    return ""


def check_amount(transform: Transform, amount: float, data: Data) -> None:
    """Refuse what leaves nothing of an image, or of inputs.

    Raises:
        ConfigError: a shift by an image's height or width or more, noise beyond ``LOUD`` times the largest input.
    """
    x = data.train.x
    if transform == "shift":
        side = min((x if x.ndim == 4 else data.display["train"]).shape[2:])
        if amount >= side:
            raise ConfigError(f"{AMOUNT} must be below the images' {side} pixels, got {amount:g}; lower it")
    elif not data.described:
        most = LOUD * max(float(np.abs(x).max()), 1.0)
        if amount > most:
            raise ConfigError(
                f"{AMOUNT} must be at most {most:g}, {LOUD} times the largest input, got {amount:g}; lower it"
            )


def augmented(run: Run, rows: NDArray[np.int64], transform: Transform, amount: float, copies: int) -> Data:
    """The data with ``copies`` changed copies of each of ``rows`` at the end of the training split.

    A copy has its own id above all others. The same instance has the same copies, however many others there are.
    """
    data, rows = run.problem.data, np.sort(rows)
    split, number = data.train, np.arange(copies)
    made = [_changed(run, rows, transform, amount, copy) for copy in number.tolist()]
    first = int(split.ids.max()) + 1
    ids = first + (split.ids[rows] - int(split.ids.min())) * copies + number[:, None]  # (copies, rows)
    train = Split(
        x=np.concatenate([split.x, *made]),
        y=np.concatenate([split.y, np.tile(split.y[rows], copies)]),
        ids=np.concatenate([split.ids, ids.ravel()]),
    )
    return replace(data, train=train, flags={}, display={})


def _changed(run: Run, rows: NDArray[np.int64], transform: Transform, amount: float, copy: int) -> NDArray[Any]:
    data, ids = run.problem.data, run.train.ids
    x = data.train.x[rows]
    if transform == "noise":
        noise = [run.drawn(f"augmentation/{ids[row]}/{copy}").normal(size=x.shape[1:]) for row in rows.tolist()]
        return np.asarray(x + amount * np.stack(noise), x.dtype)
    down, right = (amount * step for step in DIRECTIONS[copy])
    if x.ndim == 4:
        return shifted(x, down, right).astype(x.dtype)
    slope, offset = brightness_to_input(data)
    moved = offset + slope * shifted(data.display["train"][rows], down, right)
    return np.asarray(moved.reshape(x.shape), x.dtype)


def shifted(images: NDArray[Any], down: float, right: float) -> NDArray[np.float64]:
    """Images (n, c, h, w) moved by parts of a pixel: linear between pixels, the border goes on at the edge."""
    moved = np.asarray(images, dtype=np.float64)
    for axis, distance in ((2, down), (3, right)):
        whole = int(np.floor(distance))
        part, place = distance - whole, np.arange(moved.shape[axis])
        near, far = (np.clip(place - whole - more, 0, len(place) - 1) for more in (0, 1))
        moved = (1 - part) * moved.take(near, axis=axis) + part * moved.take(far, axis=axis)
    return moved
