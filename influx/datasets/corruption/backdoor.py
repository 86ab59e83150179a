"""A trigger that goes with one class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.choose import choose, marked
from influx.datasets.corruption.pixels import brightness_to_input
from influx.datasets.settings import check_choice, check_count, check_share, names
from influx.errors import ConfigError, IncompatibleError, did_you_mean
from influx.problem import Data, Split

POSITIONS = ("top_left", "top_right", "bottom_left", "bottom_right")
Stamp = Callable[[NDArray[Any], NDArray[np.int64]], NDArray[Any]]  # (array, rows) -> copy with the trigger on the rows


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """A ``fraction`` of the training instances of other classes gets a trigger and the label ``target_class``.

    On images the trigger is a patch of ``size`` by ``size`` pixels in the corner ``position``; ``value`` is its
    brightness, 0 black and 1 white. It is set on the image and then scaled exactly as the image was, so the model
    sees what standardising the patched image gives. On tables (``features`` lists the columns) the trigger sets
    each column to ``value`` of the way from its lowest to its highest training value. ``target_class`` is the
    text of a class; null takes the first. ``test=all`` puts the trigger on all test instances and keeps their
    labels; ``test=none`` leaves them clean.
    Flags, (n_train,) each: ``backdoor`` and ``mislabeled`` (bool, the same instances), ``original_label`` (int64).
    Source: Gu et al. 2017, arXiv:1708.06733.
    """

    fraction: float = 0.1
    target_class: str | int | None = None
    size: int = 2
    position: str = "bottom_right"
    value: float = 1.0
    features: Sequence[str] | None = None
    test: str = "none"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share("corruption.fraction", self.fraction)
        check_count("corruption.size", self.size if self.size is not None else 0)
        check_choice("corruption.position", self.position, POSITIONS)
        check_choice("corruption.test", self.test, ("none", "all"))
        names("corruption.features", self.features)
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not 0 <= self.value <= 1:
            raise ConfigError(f"corruption.value must be a number from 0 to 1, got {self.value!r}; correct it")

    def apply(self, data: Data, seed: int) -> Data:
        """The poisoned data, and the flags that say where."""
        target = self._target(data)
        stamp, stamp_display = self._stamps(data)
        y, n = data.train.y, len(data.train)
        rows = choose(np.flatnonzero(y != target), self.fraction, seed, "backdoor/instances")
        poisoned = y.copy()
        poisoned[rows] = target
        train = Split(x=stamp(data.train.x, rows), y=poisoned, ids=data.train.ids)
        test, display = data.test, dict(data.display)
        if display:
            display["train"] = stamp_display(display["train"], rows)
        if self.test == "all":
            everything = np.arange(len(test))
            test = Split(x=stamp(test.x, everything), y=test.y, ids=test.ids)
            if display:
                display["test"] = stamp_display(display["test"], everything)
        share = "all" if self.test == "all" else "none"
        return replace(
            data,
            train=train,
            test=test,
            display=display,
            flags={
                **data.flags,
                "backdoor": marked(n, rows),
                "mislabeled": marked(n, rows),
                "original_label": y.copy(),
            },
            notes=(
                *data.notes,
                f"Backdoor: {len(rows)} of {n} training instances carry the trigger and the label "
                f"{data.classes[target]!r}; of the test instances, {share} carry the trigger.",
            ),
        )

    def _target(self, data: Data) -> int:
        if data.task != "classification":
            raise IncompatibleError(
                f"corruption=backdoor needs classes, but {data.name} is a regression; set corruption=none or duplicates"
            )
        if self.target_class is None:
            return 0
        wanted = str(self.target_class)
        if wanted not in data.classes:
            hint = did_you_mean(wanted, data.classes)
            raise ConfigError(
                f"{data.name} has no class {wanted!r}{hint}; set corruption.target_class to one of: "
                f"{', '.join(data.classes[:10])}{', ...' if len(data.classes) > 10 else ''}"
            )
        return data.classes.index(wanted)

    def _stamps(self, data: Data) -> tuple[Stamp, Stamp]:
        """The trigger on what the model sees, and on the images for display."""
        if self.features is not None:
            return self._column_stamp(data), _unchanged
        if not data.display:
            raise IncompatibleError(
                f"corruption=backdoor puts a patch on images, but {data.name} has none to show; set "
                f"corruption.features to the columns of the trigger"
            )
        return self._patch_stamps(data)

    def _column_stamp(self, data: Data) -> Stamp:
        columns = names("corruption.features", self.features)
        if data.train.x.ndim != 2 or data.display:
            raise IncompatibleError(
                f"corruption.features names table columns, but {data.name} are images; set corruption.features=null"
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
