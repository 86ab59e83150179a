"""Two groups of instances: by a column of a table, or two classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError, did_you_mean
from influx.problem import Data, Split


@dataclass(frozen=True)
class Groups:
    """Membership in the first group and in the second, of training and of test instances, (n,) or (m,) each."""

    train: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    test: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    names: tuple[str, str]


def groups_of(data: Data, setting: str, feature: str | None, classes: list[str] | None) -> Groups | str:
    """The groups that settings name, or why there are none.

    A column splits at its training median; where nothing lies above, half way between its lowest and highest value.

    Raises:
        ConfigError: both or no setting, an unknown column or class, or a constant column.
    """
    if (feature is None) == (classes is None):
        raise ConfigError(f"set either {setting}.feature, a column, or {setting}.classes, two classes, and not both")
    if classes is not None:
        return _of_classes(data, setting, [str(name) for name in classes])
    if data.train.x.ndim != 2 or not data.features:
        return f"{data.name} has no named columns; set {setting}.classes to two classes instead"
    if feature not in data.features:
        hint = did_you_mean(str(feature), data.features)
        raise ConfigError(f"{data.name} has no column {feature!r}{hint}; correct {setting}.feature")
    column = data.features.index(feature)
    values = data.train.x[:, column]
    cut = float(np.median(values))
    if not (values > cut).any():
        cut = float(values.min() + values.max()) / 2
    if not (values > cut).any():
        raise ConfigError(f"column {feature!r} is constant in the training instances; choose another {setting}.feature")

    def halves(split: Split) -> tuple[NDArray[Any], NDArray[Any]]:
        above = split.x[:, column] > cut
        return above, ~above

    return Groups(halves(data.train), halves(data.test), (f"high {feature}", f"low {feature}"))


def _of_classes(data: Data, setting: str, classes: list[str]) -> Groups | str:
    if data.task != "classification":
        return f"this is regression: there are no classes; set {setting}.feature to a column instead"
    if len(classes) != 2 or classes[0] == classes[1]:
        raise ConfigError(f"{setting}.classes must be two different classes, got {classes}; change it")
    for name in classes:
        if name not in data.classes:
            raise ConfigError(
                f"{data.name} has no class {name!r}{did_you_mean(name, data.classes)}; correct {setting}.classes"
            )
    first, second = (data.classes.index(name) for name in classes)
    train, test = data.train.y, data.test.y
    return Groups(
        (train == first, train == second),
        (test == first, test == second),
        (f"class {classes[0]}", f"class {classes[1]}"),
    )


def reweighed(y: NDArray[Any], group: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``(n,)`` weights P(group) P(label) / P(group, label) that make them independent (Kamiran & Calders 2012)."""
    weights = np.ones(len(y))
    for label in np.unique(y):
        for side in (group, ~group):
            cell = side & (y == label)
            if cell.any():
                weights[cell] = side.sum() * (y == label).sum() / (len(y) * cell.sum())
    return weights
