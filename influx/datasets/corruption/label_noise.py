"""Wrong labels in the training split."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from influx.datasets.corruption.choose import choose, marked
from influx.datasets.settings import check_share
from influx.errors import IncompatibleError
from influx.problem import Data, Split
from influx.streams import stream


@dataclass(frozen=True, kw_only=True)
class LabelNoise:
    """A ``fraction`` of the training instances gets a label drawn uniformly from the other classes.

    Flags: ``mislabeled`` (bool) and ``original_label`` (int64), both (n_train,). Test labels stay true.
    Refuses regression: a target has no other classes to draw from.
    Source: Koh and Liang 2017, arXiv:1703.04730, section 5.4.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share("corruption.fraction", self.fraction)

    def apply(self, data: Data, seed: int) -> Data:
        """The data with wrong labels, and the flags that say where."""
        if data.task != "classification":
            raise IncompatibleError(
                f"corruption=label_noise needs classes, but {data.name} is a regression; "
                f"set corruption=none or duplicates"
            )
        y, n = data.train.y, len(data.train)
        rows = choose(np.arange(n), self.fraction, seed, "label_noise/instances")
        shift = stream(seed, "corruption/label_noise/labels").integers(1, len(data.classes), len(rows))
        noisy = y.copy()
        noisy[rows] = (y[rows] + shift) % len(data.classes)
        return replace(
            data,
            train=Split(x=data.train.x, y=noisy, ids=data.train.ids),
            flags={**data.flags, "mislabeled": marked(n, rows), "original_label": y.copy()},
            notes=(*data.notes, f"Label noise: {len(rows)} of {n} training labels were changed to another class."),
        )
