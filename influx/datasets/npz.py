"""Arrays from an npz file."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.assemble import table_split
from influx.datasets.labels import TASKS, Labels, read_labels
from influx.datasets.settings import check_choice, check_flag, check_sizes, source_file
from influx.datasets.split import Rows, split_rows, subset_rows
from influx.errors import DataError, did_you_mean
from influx.problem import Data

GIVEN = ("x_train", "y_train", "x_test", "y_test")
WHOLE = ("x", "y")
# The ways in which zipfile and numpy report damage: a flipped bit may ask for encryption, an unknown compression
# or an array larger than memory.
DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Npz:
    """An npz file with ``x_train, y_train, x_test, y_test``, or with ``x, y`` that are split here.

    x is (n, d) or images (n, channels, height, width); y is (n,) of numbers or text. Images of uint8 or in
    [0, 1] are kept for display. Nothing pickled is read.
    """

    path: str | None = None
    n_train: int | None = None
    n_test: int | None = None
    test_fraction: float = 0.2
    standardize: bool = True
    task: str = "auto"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_sizes(self.n_train, self.n_test, self.test_fraction)
        check_flag("dataset.standardize", self.standardize)
        check_choice("dataset.task", self.task, TASKS)

    def load(self, seed: int) -> Data:
        """The dataset; ``seed`` chooses the split or the subset."""
        path = source_file(self.path, "npz")
        return self.arranged(_read(path), path.name, path.stem, seed)

    def arranged(self, arrays: Arrays, where: str, name: str, seed: int) -> Data:
        """A dataset of arrays under the names of a file; ``where`` is what the messages call it.

        Raises:
            DataError: they are no instances with labels, or too few.
        """
        if "x" in arrays:
            x, y, n_given = arrays["x"], arrays["y"], None
            _check(x, y, where, "")
        else:
            _check(arrays["x_train"], arrays["y_train"], where, "_train")
            _check(arrays["x_test"], arrays["y_test"], where, "_test")
            x, y, n_given = *_joined(arrays, where), len(arrays["x_train"])
        labels = read_labels(y, self.task, f"labels of {where}")
        rows = self._rows(labels, n_given, where, seed)
        return table_split(
            x,
            labels,
            rows,
            name=name,
            kind="image" if x.ndim == 4 else "tabular",
            features=tuple(f"x{i}" for i in range(x.shape[1])) if x.ndim == 2 else (),
            standardize=self.standardize,
            display=_display(x, rows),
        )

    def _rows(self, labels: Labels, n_given: int | None, name: str, seed: int) -> tuple[Rows, Rows]:
        y = labels.y if labels.task == "classification" else None
        if n_given is None:
            return split_rows(
                y,
                len(labels.y),
                name=name,
                classes=labels.classes,
                n_train=self.n_train,
                n_test=self.n_test,
                test_fraction=self.test_fraction,
                seed=seed,
            )
        k = len(labels.classes)
        y_train, y_test = (None, None) if y is None else (y[:n_given], y[n_given:])
        if y_train is not None:
            _check_classes_known(y_train, labels, name)
        train = subset_rows(y_train, n_given, self.n_train, part="train", name=name, n_classes=k, seed=seed)
        n_test = len(labels.y) - n_given
        test = subset_rows(y_test, n_test, self.n_test, part="test", name=name, n_classes=k, seed=seed)
        return train, n_given + test


def _read(path: Path) -> Arrays:
    """The arrays of either set of names."""
    try:
        with path.open("rb") as stream:  # numpy would leave the file open where it is damaged
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"expected an npz archive, but {path} holds one bare array; save it with numpy.savez")
            return {name: file[name] for name in _wanted(list(file.files), path)}
    except DAMAGE as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds pickled objects, which are never loaded; save numbers and text with numpy.savez"
            ) from error
        raise DataError(f"{path} cannot be read as an npz file ({error}); it is damaged, write it again") from error


def _wanted(present: list[str], path: Path) -> tuple[str, ...]:
    wanted = WHOLE if "x" in present and "x_train" not in present else GIVEN
    missing = [name for name in wanted if name not in present]
    if missing:
        hint = did_you_mean(missing[0], present)
        raise DataError(
            f"expected x, y or x_train, y_train, x_test, y_test in {path}, but {missing[0]} is missing among "
            f"{', '.join(present) or 'nothing'}{hint}; save the file with these names"
        )
    return wanted


def _check(x: NDArray[Any], y: NDArray[Any], name: str, part: str) -> None:
    """Refuse shapes and types that cannot be features and labels."""
    if x.ndim not in (2, 4) or 0 in x.shape:
        raise DataError(
            f"expected x{part} of {name} as (n, features) or (n, channels, height, width) without a 0, got shape "
            f"{x.shape}; reshape it"
        )
    if x.dtype.kind not in "iufb":
        raise DataError(f"expected numbers in x{part} of {name}, got dtype {x.dtype}; convert it")
    if y.ndim != 1 or y.dtype.kind not in "iufbU":
        raise DataError(
            f"expected y{part} of {name} as (n,) of numbers or text, got shape {y.shape} and dtype {y.dtype}; "
            f"convert it"
        )
    if len(x) != len(y):
        raise DataError(f"x{part} of {name} has {len(x)} rows, but y{part} has {len(y)}; they must be equally long")


def _joined(arrays: Arrays, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    x_train, x_test, y_train, y_test = (arrays[k] for k in ("x_train", "x_test", "y_train", "y_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"x_train of {name} has instances of shape {x_train.shape[1:]}, but x_test of {x_test.shape[1:]}; "
            f"they must agree"
        )
    if x_train.dtype != x_test.dtype:
        raise DataError(f"x_train of {name} is {x_train.dtype}, but x_test is {x_test.dtype}; use one dtype")
    if (y_train.dtype.kind == "U") != (y_test.dtype.kind == "U"):
        raise DataError(f"one of y_train and y_test of {name} is text and the other numbers; use one type")
    return np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])


def _check_classes_known(y_train: NDArray[np.int64], labels: Labels, name: str) -> None:
    counts = np.bincount(y_train, minlength=len(labels.classes))
    if counts.min() == 0:
        unknown = labels.classes[int(counts.argmin())]
        raise DataError(
            f"class {unknown!r} of y_test of {name} never occurs in y_train; remove it from the test arrays"
        )


def _display(x: NDArray[Any], rows: tuple[Rows, Rows]) -> dict[str, NDArray[Any]]:
    """Images as they are, where their values have a brightness: uint8, or floats in [0, 1]."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        return {}
    if x.dtype != np.uint8 and not (x.dtype.kind == "f" and x.min() >= 0 and x.max() <= 1):
        return {}
    images = x if x.dtype == np.uint8 else x.astype(np.float32)
    return {"train": images[rows[0]], "test": images[rows[1]]}
