"""Classes joined into groups: what a label hides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.choose import need_classes
from influx.errors import ConfigError
from influx.problem import Data, Split
from influx.streams import stream

LONGEST = 40  # characters of a name that lists its members


@dataclass(frozen=True, kw_only=True)
class GroupedClasses:
    """The classes are joined at random into ``groups`` of sizes as equal as can be; the model learns groups alone.

    Labels of both splits become groups. Flags: ``subclass`` (int64), the class before, of training (n_train,) and of
    test instances (n_test,).
    Source: Hanawa et al. 2021, arXiv:2006.04528, identical subclass test.
    """

    groups: int = 2

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.groups, bool) or not isinstance(self.groups, int) or self.groups < 2:
            raise ConfigError(f"corruption.groups must be a whole number of at least 2, got {self.groups!r}; change it")

    def apply(self, data: Data, seed: int) -> Data:
        """The data with groups in place of classes, and the flags that keep the classes."""
        need_classes(data, "grouped_classes")
        count = len(data.classes)
        if self.groups >= count:
            raise ConfigError(
                f"corruption.groups must be below the {count} classes of {data.name} to hide any, got {self.groups}; "
                "lower it"
            )
        of = np.empty(count, np.int64)  # class -> group
        of[stream(seed, "corruption/grouped_classes/members").permutation(count)] = np.arange(count) % self.groups
        names = tuple(self._name(data.classes, np.flatnonzero(of == group), group) for group in range(self.groups))
        train, test = (Split(x=split.x, y=of[split.y], ids=split.ids) for split in (data.train, data.test))
        return replace(
            data,
            train=train,
            test=test,
            classes=names,
            flags={**data.flags, "subclass": data.train.y.astype(np.int64)},
            test_flags={**data.test_flags, "subclass": data.test.y.astype(np.int64)},
            notes=(*data.notes, f"Grouped classes: {count} classes were joined into {', '.join(names)}."),
        )

    @staticmethod
    def _name(classes: tuple[str, ...], members: NDArray[np.int64], group: int) -> str:
        listed = "|".join(classes[member] for member in members)
        return listed if len(listed) <= LONGEST else f"group {group} ({len(members)} classes)"
