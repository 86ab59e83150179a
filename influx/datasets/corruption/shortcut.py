"""A watermark on one class: a shortcut that a model can learn in place of the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from influx.datasets.corruption.choose import choose, class_index, marked, need_classes
from influx.datasets.corruption.trigger import Trigger
from influx.datasets.settings import check_choice, check_share
from influx.errors import ConfigError
from influx.problem import Data, Split


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """A ``fraction`` of the training instances of ``target_class`` carries a watermark; all labels stay true.

    The watermark is a patch of an image, or values of columns, as in corruption=backdoor (``size``, ``position``,
    ``value``, ``features``). ``test=others`` puts it on the test instances of all other classes, where a model that
    learnt the shortcut predicts ``target_class``; all and none put it on all or no test instances.
    Flags: ``shortcut`` (bool), which training (n_train,) and which test instances (n_test,) carry the watermark.
    Source: Koh and Liang 2017, arXiv:1703.04730, section 5.3 (domain mismatch), with a watermark as the shortcut.
    """

    fraction: float = 0.5
    target_class: str | int | None = None
    size: int = 2
    position: str = "bottom_right"
    value: float = 1.0
    features: Sequence[str] | None = None
    test: str = "others"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share("corruption.fraction", self.fraction)
        check_choice("corruption.test", self.test, ("none", "others", "all"))
        self._trigger()

    def apply(self, data: Data, seed: int) -> Data:
        """The watermarked data, and the flags that say where."""
        need_classes(data, "shortcut")
        target, trigger = class_index(data, self.target_class), self._trigger()
        members = np.flatnonzero(data.train.y == target)
        if not len(members):
            raise ConfigError(
                f"no training instance is of class {data.classes[target]!r}; set corruption.target_class to another"
            )
        rows = choose(members, self.fraction, seed, "shortcut/instances")
        carry = {
            "none": np.zeros(0, np.int64),
            "others": np.flatnonzero(data.test.y != target),
            "all": np.arange(len(data.test)),
        }[self.test]
        x, display = trigger.put(data, "train", rows)
        x_test, display_test = trigger.put(data, "test", carry)
        return replace(
            data,
            train=Split(x=x, y=data.train.y, ids=data.train.ids),
            test=Split(x=x_test, y=data.test.y, ids=data.test.ids),
            display=display | {part: shown for part, shown in display_test.items() if part == "test"},
            flags={**data.flags, "shortcut": marked(len(data.train), rows)},
            test_flags={**data.test_flags, "shortcut": marked(len(data.test), carry)},
            notes=(
                *data.notes,
                f"Shortcut: {len(rows)} of {len(members)} training instances of class {data.classes[target]!r} and "
                f"{len(carry)} of {len(data.test)} test instances carry the watermark.",
            ),
        )

    def _trigger(self) -> Trigger:
        return Trigger(who="shortcut", size=self.size, position=self.position, value=self.value, features=self.features)
