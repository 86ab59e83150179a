"""A class that training never sees: its test instances are the anomalies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.anomalies import with_anomalies
from influx.datasets.corruption.choose import class_index, need_classes
from influx.datasets.corruption.pixels import brightness_to_input, white
from influx.datasets.scale import BY_TRAINING, Scale
from influx.errors import ConfigError
from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class AnomalyClass:
    """The class ``target_class`` (its text; null takes the first) is taken out of training and stays in testing.

    The training split has fewer instances afterwards. Features that the dataset standardised are so again, by the
    instances left: otherwise their means would tell where the held-out class lies. Flags, (n_test,): ``anomaly``
    (bool), the test instances of that class. Meant for density models: a classifier is asked about a label that it
    could not learn.
    """

    target_class: str | int | None = None

    def apply(self, data: Data, seed: int) -> Data:
        """The data without the class in training, and the flags of its test instances."""
        del seed
        need_classes(data, "anomaly_class")
        held = class_index(data, self.target_class)
        kept, anomaly = np.flatnonzero(data.train.y != held), data.test.y == held
        name = data.classes[held]
        if not anomaly.any():
            raise ConfigError(f"no test instance is of class {name!r}; set corruption.target_class to another")
        if anomaly.all() or not len(kept):
            raise ConfigError(
                f"all {'test' if anomaly.all() else 'training'} instances are of class {name!r}; set "
                "corruption.target_class to another"
            )
        removed, train, test = len(data.train) - len(kept), data.train.take(kept), data.test
        scale = _scale(data, train.x)
        if scale is not None:
            train, test = (replace(split, x=scale.apply(split.x)) for split in (train, test))
        return replace(
            data,
            train=train,
            test=test,
            display={part: shown[kept] if part == "train" else shown for part, shown in data.display.items()},
            flags={flag: np.asarray(values)[kept] for flag, values in data.flags.items()},
            test_flags=with_anomalies(data, anomaly),
            notes=(
                *data.notes,
                f"Held-out class: {removed} training instances of class {name!r} were removed; the "
                f"{int(anomaly.sum())} of {len(data.test)} test instances of that class are anomalies.",
                *(() if scale is None else (f"Again, features {BY_TRAINING} left.",)),
            ),
        )


def _scale(data: Data, left: NDArray[Any]) -> Scale | None:
    """What standardises by the training features ``left``; None for a dataset that was not standardised.

    Indicators (0 and 1 alone) stay. A pixel that is the same in all images left is in the units of brightness, as
    the dataset would have it; such a column of a table keeps its deviation of before.
    """
    if not any(BY_TRAINING in note for note in data.notes):
        return None
    scale = Scale.fit(left)
    axes = (0, *range(2, left.ndim))
    mean, std = scale.mean, scale.std
    if data.display:
        slope = brightness_to_input(data)[0] * white(data.display["train"])
        slope = slope.reshape(1, *left.shape[1:]) if left.ndim == 2 else slope[:, :, :1, :1]
        std = np.where(np.ptp(left, axis=axes, keepdims=True) == 0, slope, std)
    else:
        indicator = ((data.train.x == 0) | (data.train.x == 1)).all(axis=axes, keepdims=True)
        mean, std = np.where(indicator, 0.0, mean), np.where(indicator, 1.0, std)
    return Scale(mean, std)
