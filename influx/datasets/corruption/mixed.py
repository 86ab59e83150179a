"""Instances of another dataset among the training instances of one class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.choose import choose, class_index, marked, need_classes
from influx.datasets.corruption.pixels import brightness_to_input, seen_as, white
from influx.datasets.settings import check_share
from influx.errors import ConfigError, IncompatibleError
from influx.problem import Data, Split
from influx.streams import stream


class Source(Protocol):
    """A dataset to take foreign instances from."""

    def load(self, seed: int) -> Data:
        """The dataset."""
        ...


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A ``fraction`` of the training and ``test_fraction`` of the test instances are foreign, all labelled alike.

    Foreign instances replace randomly drawn ones of all classes, in their rows and under their ids, and have the label
    ``target_class`` (its text; null takes the first). ``source`` is the dataset they come from, such as
    ``{_target_: influx.datasets.synthetic.Synthetic, shape: [64]}``; training instances come from its training
    split, test instances from its test split. Its images are cropped or framed with black to size and scaled as these
    images were; its tables are taken as they are and need as many columns. null takes the replaced images' own
    negatives. Flags: ``foreign`` (bool), of training (n_train,) and test instances (n_test,).
    Source: Hammoudeh and Lowd 2022, arXiv:2201.10055, CIFAR-10 with zeros of MNIST.
    """

    fraction: float = 0.05
    test_fraction: float = 0.1
    target_class: str | int | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share("corruption.fraction", self.fraction)
        check_share("corruption.test_fraction", self.test_fraction)
        if self.source is not None and not hasattr(self.source, "load"):
            raise ConfigError(f"corruption.source must be a dataset, got {self.source!r}; name one of influx.datasets")

    def apply(self, data: Data, seed: int) -> Data:
        """The mixed data, and the flags that say where."""
        need_classes(data, "mixed")
        if data.kind == "text":
            raise IncompatibleError(
                f"corruption=mixed takes images or tables, but {data.name} has texts; choose another corruption"
            )
        label, foreign = class_index(data, self.target_class), self.source.load(seed) if self.source else None
        if foreign is None and not data.display:
            raise IncompatibleError(
                f"corruption=mixed takes negatives of images, but {data.name} has none; set corruption.source to a "
                "dataset with as many columns"
            )
        splits, display, flags = {}, dict(data.display), {}
        for part, split, fraction in (("train", data.train, self.fraction), ("test", data.test, self.test_fraction)):
            setting, kind = ("fraction", "training") if part == "train" else ("test_fraction", "test")
            rows = choose(
                np.arange(len(split)), fraction, seed, f"mixed/{part}", f"corruption.{setting}={fraction}", kind
            )
            x, shown = self._foreign(data, foreign, part, rows, seed)
            splits[part] = Split(x=_placed(split.x, rows, x), y=_placed(split.y, rows, label), ids=split.ids)
            if display:
                display[part] = _placed(display[part], rows, shown)
            flags[part] = marked(len(split), rows)
        name = f"negatives of {data.name}" if foreign is None else foreign.name
        counts = [int(flags[part].sum()) for part in ("train", "test")]
        return replace(
            data,
            train=splits["train"],
            test=splits["test"],
            display=display,
            flags={**data.flags, "foreign": flags["train"]},
            test_flags={**data.test_flags, "foreign": flags["test"]},
            notes=(
                *data.notes,
                f"Mixed: {counts[0]} of {len(data.train)} training and {counts[1]} of {len(data.test)} test instances "
                f"are {name}, labelled {data.classes[label]!r}.",
            ),
        )

    def _foreign(
        self, data: Data, foreign: Data | None, part: str, rows: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[Any], Any]:
        """What goes into the rows: ``x``, and the images to show (or nothing)."""
        if foreign is None:
            shown = data.display[part][rows]
            return _seen(data, negative := white(shown) - shown), negative
        split = foreign.train if part == "train" else foreign.test
        if len(split) < len(rows):
            raise ConfigError(
                f"corruption.source has {len(split)} {part} instances, {len(rows)} are needed; lower "
                f"corruption.{'fraction' if part == 'train' else 'test_fraction'} or take more of the source"
            )
        drawn = np.sort(stream(seed, f"corruption/mixed/{part}/source").permutation(len(split))[: len(rows)])
        if data.display and foreign.display:
            shown = _fitted(foreign.display[part][drawn], data.display[part])
            return _seen(data, shown), shown
        x = split.x[drawn]
        if x.shape[1:] != data.train.x.shape[1:] or x.dtype != data.train.x.dtype:
            raise IncompatibleError(
                f"foreign instances need the shape {data.train.x.shape[1:]} of {data.name}, those of {foreign.name} "
                f"have {x.shape[1:]}; choose another corruption.source"
            )
        return x, seen_as(data, x) if data.display else None


def _placed(values: NDArray[Any], rows: NDArray[np.int64], new: Any) -> NDArray[Any]:
    result = values.copy()
    result[rows] = new
    return result


def _seen(data: Data, shown: NDArray[Any]) -> NDArray[np.float32]:
    """What the model sees of images: scaled as those of the dataset were."""
    slope, offset = brightness_to_input(data)
    x = (offset + slope * shown).reshape(len(shown), *data.train.x.shape[1:])
    return np.asarray(x, np.float32)


def _fitted(images: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """Images with the channels, size and range of ``like``: grey from colours or the reverse, cropped or framed."""
    values = images.astype(np.float64) * (white(like) / white(images))
    channels, height, width = like.shape[1:]
    if values.shape[1] != channels:
        values = values.mean(axis=1, keepdims=True).repeat(channels, axis=1)
    for axis, wanted in ((2, height), (3, width)):
        spare = wanted - values.shape[axis]
        if spare >= 0:
            frame = [(0, 0)] * 4
            frame[axis] = (spare // 2, spare - spare // 2)
            values = np.pad(values, frame)
        else:
            start = -spare // 2
            values = values.take(np.arange(start, start + wanted), axis=axis)
    return (np.round(values) if np.issubdtype(like.dtype, np.integer) else values).astype(like.dtype)
