"""A dataset of your own: arrays or a PyTorch dataset that a function or class of a trusted package makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.given import FIRST, instances_of, is_array, is_dataset
from influx.datasets.labels import TASKS
from influx.datasets.npz import Npz
from influx.datasets.settings import check_choice, check_flag, check_sizes
from influx.errors import ConfigError, DataError
from influx.instantiate import Named
from influx.problem import Data

ARRANGING = ("n_train", "n_test", "test_fraction", "standardize", "task")  # what arrays are made into a dataset by


@dataclass(frozen=True, kw_only=True)
class Mine:
    """What ``factory(**arguments)`` returns: influx's ``Data``, instances to be split here, or ``(train, test)``.

    Instances are ``(x, y)`` or a map-style dataset whose items are such pairs and are read once. x is (n, d) or images
    (n, channels, height, width); y is (n,). Token ids come as ``Data``.

    Attributes:
        factory: a function or a Dataset class, ``mypackage.data:load``; its package must be among ``trust``.
        arguments: keyword arguments.
        n_train: training instances; null takes all that there are.
        n_test: test instances; null takes all of a given test split, or ``test_fraction``.
        test_fraction: share of test instances where the function returns no split.
        standardize: whether to, by the training instances.
        task: auto, classification or regression.
    """

    factory: Named | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    n_train: int | None = None
    n_test: int | None = None
    test_fraction: float = 0.2
    standardize: bool = False
    task: str = "auto"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_sizes(self.n_train, self.n_test, self.test_fraction)
        check_flag("dataset.standardize", self.standardize)
        check_choice("dataset.task", self.task, TASKS)

    def load(self, seed: int) -> Data:
        """The dataset; ``seed`` chooses the split or the subset."""
        if self.factory is None:
            raise ConfigError(
                "dataset.factory must name a function of yours, got null; set dataset.factory=mypackage.data:load and "
                "trust=[mypackage]"
            )
        name = self.factory.name
        try:
            found = self.factory.call(**self.arguments)
        except Exception as error:
            raise DataError(
                f"dataset.factory={name} fails ({type(error).__name__}: {' '.join(str(error).split())}); "
                "correct it, or its dataset.arguments"
            ) from error
        if isinstance(found, Data):
            return self._checked(found, name)
        arrays = _arrays(found, name)
        read = Npz(
            n_train=self.n_train,
            n_test=self.n_test,
            test_fraction=self.test_fraction,
            standardize=self.standardize,
            task=self.task,
        )
        return read.arranged(arrays, f"dataset.factory={name}", name.partition(":")[2], seed)

    def _checked(self, data: Data, name: str) -> Data:
        """``data`` as it is: settings that would change it are refused, and numbers that are none."""
        changed = [key for key in ARRANGING if getattr(self, key) != getattr(Mine, key)]
        if changed:
            raise ConfigError(
                f"dataset.{changed[0]} does not apply: dataset.factory={name} returns influx's Data, which is taken as "
                f"it is; leave out dataset.{changed[0]}, or return arrays"
            )
        for which, split in (("train", data.train), ("test", data.test)):
            for part, array in (("x", split.x), ("y", split.y)):
                if np.asarray(array).dtype.kind == "f" and not np.isfinite(array).all():
                    raise DataError(
                        f"{part} of {which} of dataset.factory={name} has numbers that are not finite; remove those "
                        "instances"
                    )
        return data


def _arrays(found: Any, name: str) -> dict[str, NDArray[Any]]:
    """What was returned under the names of an npz file."""
    if is_dataset(found):
        return _whole(found, name)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise DataError(
            f"dataset.factory={name} must return (x, y), a map-style Dataset, (train, test) or influx's Data, got "
            f"{type(found).__name__}; correct it"
        )
    return _whole(tuple(found), name) if _is_whole(found) else _split(found, name)


def _is_whole(found: Any) -> bool:
    """Whether a pair is (x, y): its second part is one array of numbers."""
    first, second = found
    if any(isinstance(part, tuple | Mapping) for part in (first, second)) or not is_array(second):
        return isinstance(second, list) and not any(hasattr(item, "__len__") for item in second[:1])
    return True


def _xy(source: Any, which: str, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    where = f"{which} of dataset.factory={name}"
    held = instances_of(source, where, None)
    if list(held.inputs) != [FIRST]:
        raise DataError(
            f"{where} has inputs {list(held.inputs)}, and models read one; return (x, y), or "
            "use influx.attribute for models that take several"
        )
    return held.inputs[FIRST], held.y


def _whole(found: Any, name: str) -> dict[str, NDArray[Any]]:
    x, y = _xy(found, "the data", name)
    return {"x": x, "y": y}


def _split(found: Any, name: str) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for source, part in zip(found, ("train", "test"), strict=True):
        x, y = _xy(source, part, name)
        arrays |= {f"x_{part}": np.asarray(x), f"y_{part}": np.asarray(y)}
    return arrays
