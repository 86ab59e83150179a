"""A class that training never sees: its test instances are the anomalies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from influx.datasets.corruption.anomalies import with_anomalies
from influx.datasets.corruption.choose import class_index, need_classes
from influx.errors import ConfigError
from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class AnomalyClass:
    """The class ``target_class`` (its text; null takes the first) is taken out of training and stays in testing.

    The training split has fewer instances afterwards. Flags, (n_test,): ``anomaly`` (bool), the test instances of that
    class. Meant for density models: a classifier is asked about a label that it could not learn.
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
        removed = len(data.train) - len(kept)
        return replace(
            data,
            train=data.train.take(kept),
            display={part: shown[kept] if part == "train" else shown for part, shown in data.display.items()},
            flags={flag: np.asarray(values)[kept] for flag, values in data.flags.items()},
            test_flags=with_anomalies(data, anomaly),
            notes=(
                *data.notes,
                f"Held-out class: {removed} training instances of class {name!r} were removed; the "
                f"{int(anomaly.sum())} of {len(data.test)} test instances of that class are anomalies.",
            ),
        )
