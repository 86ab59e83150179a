"""Instances that somebody holds in memory: arrays, tensors, or a dataset of PyTorch or Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import DataError

LABELS = ("labels", "label")  # what datasets of dictionaries call targets
FIRST = ""  # the name of an input that is the module's first argument


@dataclass(frozen=True)
class Instances:
    """``inputs`` by name (n, ...) in the order of the module's arguments, and targets ``y`` (n, ...)."""

    inputs: Mapping[str, NDArray[Any]]
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)


def is_array(source: Any) -> bool:
    """Whether it is an array, a tensor or a data frame; datasets may have a shape, but are none of these."""
    return hasattr(source, "dtype") or hasattr(source, "__array__")


def is_dataset(source: Any) -> bool:
    """Whether it is a dataset of PyTorch, or indexed like one and no array, list or mapping."""
    from torch.utils.data import Dataset

    if isinstance(source, Dataset):
        return True
    other = isinstance(source, tuple | list | Mapping | str | bytes | type) or is_array(source)
    return not other and hasattr(source, "__len__") and hasattr(source, "__getitem__")


def instances_of(source: Any, which: str, arguments: tuple[str, ...] | None) -> Instances:
    """Inputs and targets of ``(x, y)``, of a mapping with labels, or of a map-style dataset of either.

    Args:
        source: arrays, tensors or lists of equal length, or a dataset whose items are pairs or mappings.
        which: what the messages call it, train or test.
        arguments: names that the module takes; others in a mapping are left out. None takes all.

    Raises:
        DataError: it is none of these, it is empty, lengths or shapes differ, or there are no targets.
    """
    if isinstance(source, Mapping):
        return _checked(dict(source), which, arguments)
    if isinstance(source, tuple) and len(source) == 2:
        return _checked(dict(_named(source[0])) | {LABELS[0]: source[1]}, which, arguments)
    _refuse_stream(source, which)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return _of_items(source, which, arguments)
    raise DataError(
        f"{which} must be (x, y) or a dataset with a length whose items are (x, y) or mappings with labels, got "
        f"{type(source).__name__}; collect what it yields into arrays"
    )


def _refuse_stream(source: Any, which: str) -> None:
    from torch.utils.data import IterableDataset

    if isinstance(source, IterableDataset):
        raise DataError(
            f"{which} is an IterableDataset ({type(source).__name__}), whose items have no numbers; give a map-style "
            "Dataset, or arrays of what it yields"
        )


def _named(x: Any) -> Mapping[str, Any]:
    return x if isinstance(x, Mapping) else {FIRST: x}


def _of_items(source: Any, which: str, arguments: tuple[str, ...] | None) -> Instances:
    """Columns of a dataset. Every item is read once, into arrays made by the first one, and let go."""
    from torch.utils.data import TensorDataset

    if type(source) is TensorDataset and len(source.tensors) == 2:  # one made of it may change what its items are
        return _checked({FIRST: source.tensors[0], LABELS[0]: source.tensors[1]}, which, arguments)
    try:
        count = len(source)
    except Exception as error:
        raise DataError(f"the length of {which} cannot be read ({_told(error)}); correct its __len__") from error
    columns: dict[str, Any] = {}
    for number in range(count):
        row = _row(source, number, which)
        if number and row.keys() != columns.keys():
            raise DataError(f"items of {which} have different names; give all of them the same")
        label = next((name for name in LABELS if name in row), None)
        for name, value in row.items():
            if arguments is not None and name not in (FIRST, label, *arguments):
                columns[name] = None  # whatever it holds
                continue
            found = _numbers(value, f"{_word(name, label)} of item {number} of {which}")
            column = columns[name] if number else np.empty((count, *found.shape), found.dtype)
            columns[name] = _with(column, number, found, f"{_word(name, label)} of item {number} of {which}")
    if not count:
        raise DataError(f"{which} holds no instances; pass at least one")
    return _checked(columns, which, arguments, copy=False)


def _row(source: Any, number: int, which: str) -> dict[str, Any]:
    """One item by name."""
    try:
        item = source[number]
    except Exception as error:
        raise DataError(
            f"item {number} of {which} cannot be read ({_told(error)}); correct the dataset's __getitem__"
        ) from error
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, tuple | list) and len(item) == 2:
        return dict(_named(item[0])) | {LABELS[0]: item[1]}
    kind = type(item).__name__ + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
    raise DataError(
        f"item {number} of {which} must be (x, y) or a mapping with labels, got {kind}; wrap the dataset so that it is"
    )


def _with(column: NDArray[Any], number: int, found: NDArray[Any], what: str) -> NDArray[Any]:
    """The column with one more row, made wider where the row's numbers need it."""
    if found.shape != column.shape[1:]:
        raise DataError(
            f"{what} has shape {found.shape} and those before it {column.shape[1:]}; pad or crop them to one shape"
        )
    column = column.astype(np.promote_types(column.dtype, found.dtype), copy=False)
    column[number] = found
    return column


def _numbers(value: Any, what: str) -> NDArray[Any]:
    if type(value).__module__.partition(".")[0] == "PIL":
        raise DataError(f"{what} is an image of Pillow; give the dataset a transform to tensors, as ToTensor()")
    try:
        found = _stacked(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{what} must be numbers ({_told(error)}); convert it") from error
    if found.dtype.kind not in "biuf":
        raise DataError(f"{what} must be numbers, got {type(value).__name__}; convert it")
    return found


def _word(name: str, label: str | None) -> str:
    return "y" if name == label else name or "x"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _checked(held: dict[str, Any], which: str, arguments: tuple[str, ...] | None, copy: bool = True) -> Instances:
    label = next((name for name in LABELS if name in held), None)
    if label is None:
        raise DataError(
            f"{which} must have targets named labels among {', '.join(map(repr, held))}; add them (a language model's "
            "are its input_ids, with -100 on padding)"
        )
    y = as_array(held.pop(label), f"y of {which}", copy)
    wanted = [name for name in held if name == FIRST or arguments is None or name in arguments]
    inputs = {name: as_array(held[name], f"{name or 'x'} of {which}", copy) for name in wanted}
    if not inputs:
        raise DataError(
            f"{which} holds no input that the model takes ({', '.join(map(repr, held))} for the arguments "
            f"{', '.join(arguments or ())}); rename them"
        )
    for name, array in inputs.items():
        if len(array) != len(y):
            raise DataError(f"{name or 'x'} of {which} has {len(array)} rows and y {len(y)}; they must be equally long")
    if not len(y):
        raise DataError(f"{which} holds no instances; pass at least one")
    return Instances(inputs, y)


def as_array(values: Any, what: str, copy: bool = True) -> NDArray[Any]:
    """float32, float64 or int64 numbers (n, ...) of an array, a tensor or a list of either.

    ``copy`` says that somebody else may hold and change ``values``.

    Raises:
        DataError: rows have different shapes, or are no numbers or not finite.
    """
    try:
        found = _stacked(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{what} must be numbers, every row of the same shape ({' '.join(str(error).split())}); "
            "pad or crop the rows"
        ) from error
    if found.dtype.kind == "b" or found.dtype.kind in "iu":
        return np.ascontiguousarray(found.astype(np.int64, copy=copy))
    if found.dtype.kind != "f" or found.ndim == 0:
        raise DataError(f"{what} must be numbers (n, ...), got {found.dtype} of shape {found.shape}; convert it")
    if not np.isfinite(found).all():
        raise DataError(f"{what} has numbers that are not finite; remove those instances")
    return np.ascontiguousarray(found if found.dtype == np.float64 else found.astype(np.float32, copy=copy))


def _stacked(values: Any) -> NDArray[Any]:
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        return np.asarray(tensor.float() if str(tensor.dtype) in ("torch.bfloat16", "torch.float16") else tensor)
    rows = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    if rows and len(values) and not isinstance(values[0], int | float):
        return np.stack([_stacked(value) for value in values])
    return np.asarray(values)
