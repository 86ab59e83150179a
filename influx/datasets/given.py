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
        held = dict(source)
    elif isinstance(source, tuple) and len(source) == 2:
        held = dict(_named(source[0])) | {LABELS[0]: source[1]}
    elif hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        held = _collected(source, which)
    else:
        raise DataError(
            f"{which} must be (x, y) or a dataset with a length whose items are (x, y) or mappings with labels, got "
            f"{type(source).__name__}; collect what it yields into arrays"
        )
    return _checked(held, which, arguments)


def _named(x: Any) -> Mapping[str, Any]:
    return x if isinstance(x, Mapping) else {FIRST: x}


def _collected(source: Any, which: str) -> dict[str, Any]:
    """Columns of a dataset, read once."""
    from torch.utils.data import TensorDataset

    if type(source) is TensorDataset and len(source.tensors) == 2:  # one made of it may change what its items are
        return {FIRST: source.tensors[0], LABELS[0]: source.tensors[1]}
    items = [source[i] for i in range(len(source))]
    if not items:
        raise DataError(f"{which} holds no instances; pass at least one")
    rows = []
    for number, item in enumerate(items):
        if isinstance(item, Mapping):
            rows.append(dict(item))
        elif isinstance(item, tuple | list) and len(item) == 2:
            rows.append(dict(_named(item[0])) | {LABELS[0]: item[1]})
        else:
            raise DataError(
                f"item {number} of {which} must be (x, y) or a mapping with labels, got {type(item).__name__}; "
                "wrap the dataset so that it is"
            )
    if any(row.keys() != rows[0].keys() for row in rows):
        raise DataError(f"items of {which} have different names; give all of them the same")
    return {name: [row[name] for row in rows] for name in rows[0]}


def _checked(held: dict[str, Any], which: str, arguments: tuple[str, ...] | None) -> Instances:
    label = next((name for name in LABELS if name in held), None)
    if label is None:
        raise DataError(
            f"{which} must have targets named labels among {', '.join(map(repr, held))}; add them (a language model's "
            "are its input_ids, with -100 on padding)"
        )
    y = as_array(held.pop(label), f"y of {which}")
    wanted = [name for name in held if name == FIRST or arguments is None or name in arguments]
    inputs = {name: as_array(held[name], f"{name or 'x'} of {which}") for name in wanted}
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


def as_array(values: Any, what: str) -> NDArray[Any]:
    """float32, float64 or int64 numbers (n, ...) of an array, a tensor or a list of either.

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
        return np.ascontiguousarray(found.astype(np.int64))
    if found.dtype.kind != "f" or found.ndim == 0:
        raise DataError(f"{what} must be numbers (n, ...), got {found.dtype} of shape {found.shape}; convert it")
    if not np.isfinite(found).all():
        raise DataError(f"{what} has numbers that are not finite; remove those instances")
    return np.ascontiguousarray(found if found.dtype == np.float64 else found.astype(np.float32))


def _stacked(values: Any) -> NDArray[Any]:
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        return np.asarray(tensor.float() if str(tensor.dtype) in ("torch.bfloat16", "torch.float16") else tensor)
    if isinstance(values, Sequence) and len(values) and not isinstance(values[0], int | float):
        return np.stack([_stacked(value) for value in values])
    return np.asarray(values)
