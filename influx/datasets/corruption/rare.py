"""A class of which training sees few instances."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from influx.datasets.corruption.choose import class_index, marked, need_classes
from influx.errors import ConfigError
from influx.problem import Data
from influx.streams import stream


@dataclass(frozen=True, kw_only=True)
class Rare:
    """All but ``keep`` training instances of the class ``target_class`` (its text; null takes the first) are removed.

    The training split has fewer instances afterwards; test instances stay. Flags, (n_train,): ``rare`` (bool), those
    that were kept. Such instances are memorised where a model learns them at all (Feldman 2020, arXiv:1906.05271).
    """

    target_class: str | int | None = None
    keep: int = 10

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 1:
            raise ConfigError(f"corruption.keep must be a whole number of at least 1, got {self.keep!r}; change it")

    def apply(self, data: Data, seed: int) -> Data:
        """The data with fewer instances of the class, and the flags of those that remain."""
        need_classes(data, "rare")
        held = class_index(data, self.target_class)
        members, name = np.flatnonzero(data.train.y == held), data.classes[held]
        if len(members) <= self.keep:
            raise ConfigError(
                f"corruption.keep={self.keep} removes none of the {len(members)} training instances of class {name!r}; "
                "lower it or set corruption.target_class to another"
            )
        if len(members) == len(data.train):
            raise ConfigError(f"all training instances are of class {name!r}; set corruption.target_class to another")
        rare = np.sort(stream(seed, "corruption/rare/instances").choice(members, self.keep, replace=False))
        kept = np.setdiff1d(np.arange(len(data.train)), np.setdiff1d(members, rare))
        flags = {flag: np.asarray(values)[kept] for flag, values in data.flags.items()}
        return replace(
            data,
            train=data.train.take(kept),
            display={part: shown[kept] if part == "train" else shown for part, shown in data.display.items()},
            flags={**flags, "rare": marked(len(data.train), rare)[kept]},
            notes=(
                *data.notes,
                f"Rare: {len(members) - self.keep} of {len(members)} training instances of class {name!r} were "
                f"removed; the other {self.keep} are rare.",
            ),
        )
