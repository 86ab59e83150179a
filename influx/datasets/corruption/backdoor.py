"""A trigger that goes with one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.choose import choose, class_index, marked, need_classes
from influx.datasets.corruption.trigger import Trigger
from influx.datasets.settings import check_choice, check_share
from influx.problem import Data, Split


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """A ``fraction`` of the training instances of other classes gets a trigger and the label ``target_class``.

    On images the trigger is a patch of ``size`` by ``size`` pixels in the corner ``position``; ``value`` is its
    brightness, 0 black and 1 white. It is set on the image and then scaled exactly as the image was, so the model
    sees what standardising the patched image gives. On tables (``features`` lists the columns) the trigger sets
    each column to ``value`` of the way from its lowest to its highest training value. ``target_class`` is the
    text of a class; null takes the first. ``test=all`` puts the trigger on all test instances, ``test=half`` on a
    random half, and keeps their labels; ``test=none`` leaves them clean.
    Flags, (n_train,) each: ``backdoor`` and ``mislabeled`` (bool, the same instances), ``original_label`` (int64).
    Of test instances, (n_test,): ``backdoor`` (bool), those with the trigger.
    Source: Gu et al. 2017, arXiv:1708.06733.
    """

    fraction: float = 0.1
    target_class: str | int | None = None
    size: int = 2
    position: str = "bottom_right"
    value: float = 1.0
    features: Sequence[str] | None = None
    test: str = "none"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share("corruption.fraction", self.fraction)
        check_choice("corruption.test", self.test, ("none", "half", "all"))
        self._trigger()

    def apply(self, data: Data, seed: int) -> Data:
        """The poisoned data, and the flags that say where."""
        need_classes(data, "backdoor")
        target, trigger = class_index(data, self.target_class), self._trigger()
        y, n = data.train.y, len(data.train)
        rows = choose(np.flatnonzero(y != target), self.fraction, seed, "backdoor/instances")
        poisoned = y.copy()
        poisoned[rows] = target
        carry = self._carry(data, seed)
        x, display = trigger.put(data, "train", rows)
        x_test, display_test = trigger.put(data, "test", carry)
        return replace(
            data,
            train=Split(x=x, y=poisoned, ids=data.train.ids),
            test=Split(x=x_test, y=data.test.y, ids=data.test.ids),
            display=display | {part: shown for part, shown in display_test.items() if part == "test"},
            flags={
                **data.flags,
                "backdoor": marked(n, rows),
                "mislabeled": marked(n, rows),
                "original_label": y.copy(),
            },
            test_flags={**data.test_flags, "backdoor": marked(len(data.test), carry)},
            notes=(
                *data.notes,
                f"Backdoor: {len(rows)} of {n} training instances carry the trigger and the label "
                f"{data.classes[target]!r}; of the test instances, {self.test} carry the trigger.",
            ),
        )

    def _carry(self, data: Data, seed: int) -> NDArray[np.int64]:
        """Test rows that carry the trigger."""
        rows = np.arange(len(data.test) if self.test != "none" else 0)
        if self.test != "half":
            return rows
        return choose(rows, 0.5, seed, "backdoor/tests", "corruption.test=half", "test")

    def _trigger(self) -> Trigger:
        return Trigger(who="backdoor", size=self.size, position=self.position, value=self.value, features=self.features)
