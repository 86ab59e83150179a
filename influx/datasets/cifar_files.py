"""CIFAR-10 and CIFAR-100 as they lie on disk, in the binary and in the Python version.

Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.pickled import read_pickled
from influx.errors import DataError

PIXELS = 3 * 32 * 32  # red, green, blue planes, row by row
AGAIN = "delete it and set dataset.download=true to fetch it again"
Part = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels (n, 3, 32, 32), class indices (n,)


@dataclass(frozen=True, kw_only=True)
class Version:
    """One of the two file formats of one dataset."""

    folder: str
    train: tuple[str, ...]
    test: str
    names: str  # the file with the names of the classes
    binary: bool
    label_bytes: int = 1  # binary: bytes before the pixels, the last of which is the class
    label_key: str = "labels"  # python: where the classes are
    names_key: str = "label_names"

    @property
    def files(self) -> tuple[str, ...]:
        """Everything that has to be there."""
        return (*self.train, self.test, self.names)


BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = (
    Version(folder="cifar-10-batches-py", train=BATCHES, test="test_batch", names="batches.meta", binary=False),
    Version(
        folder="cifar-10-batches-bin",
        train=tuple(f"{batch}.bin" for batch in BATCHES),
        test="test_batch.bin",
        names="batches.meta.txt",
        binary=True,
    ),
)
CIFAR100 = (
    Version(
        folder="cifar-100-python",
        train=("train",),
        test="test",
        names="meta",
        binary=False,
        label_key="fine_labels",
        names_key="fine_label_names",
    ),
    Version(
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        binary=True,
        label_bytes=2,
    ),
)


def read_version(folder: Path, version: Version, n_classes: int) -> tuple[Part, Part, tuple[str, ...]]:
    """Training part, test part and class names.

    Raises:
        DataError: a file is truncated, of the wrong form, or has a label out of range; it is named.
    """
    read = _read_binary if version.binary else _read_python
    batches = [read(folder / name, version, n_classes) for name in version.train]
    train = np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
    return train, read(folder / version.test, version, n_classes), _read_names(folder, version, n_classes)


def _read_binary(path: Path, version: Version, n_classes: int) -> Part:
    record = version.label_bytes + PIXELS
    size = path.stat().st_size
    if size == 0 or size % record:
        raise DataError(f"{path} has {size} bytes, which is not a multiple of {record}; it is damaged, {AGAIN}")
    rows = np.fromfile(path, np.uint8).reshape(-1, record)
    labels = rows[:, version.label_bytes - 1].astype(np.int64)
    return rows[:, version.label_bytes :].reshape(-1, 3, 32, 32), _checked(labels, n_classes, path)


def _read_python(path: Path, version: Version, n_classes: int) -> Part:
    content = _dictionary(path)
    pixels, labels = content.get("data"), content.get(version.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS or not len(pixels):
        raise DataError(f"{path} has no array 'data' of (n, {PIXELS}) uint8; it is damaged, {AGAIN}")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{path} has no list {version.label_key!r} of whole numbers; it is damaged, {AGAIN}")
    if len(labels) != len(pixels):
        raise DataError(f"{path} has {len(pixels)} images but {len(labels)} labels; it is damaged, {AGAIN}")
    if not all(0 <= label < n_classes for label in labels):  # before int64, which a damaged number may exceed
        raise DataError(f"{path} has a label outside 0 to {n_classes - 1}; it is damaged, {AGAIN}")
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, np.int64)


def _read_names(folder: Path, version: Version, n_classes: int) -> tuple[str, ...]:
    path = folder / version.names
    if version.binary:
        text = path.read_bytes().decode("latin-1")
        found: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        found = _dictionary(path).get(version.names_key)
    if not isinstance(found, list) or len(found) != n_classes or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path} does not hold the names of {n_classes} classes; it is damaged, {AGAIN}")
    return tuple(found)


def _dictionary(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle; keys that Python 3 wrote as bytes are read as text."""
    content = read_pickled(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a dictionary; it is damaged, {AGAIN}")
    return {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}


def _checked(labels: NDArray[np.int64], n_classes: int, path: Path) -> NDArray[np.int64]:
    if labels.max() >= n_classes:
        where = int(labels.argmax())
        raise DataError(
            f"image {where} of {path} has label {labels[where]}, above {n_classes - 1}; it is damaged, {AGAIN}"
        )
    return labels
