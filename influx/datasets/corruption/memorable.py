"""What models are known to memorise, and what they need not: rare, mislabeled and duplicated training instances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.duplicates import Duplicates
from influx.datasets.corruption.label_noise import LabelNoise
from influx.datasets.corruption.rare import Rare
from influx.datasets.settings import check_share
from influx.errors import ConfigError
from influx.problem import Data, Split


@dataclass(frozen=True, kw_only=True)
class Memorable:
    """One class made rare, a share of the other labels changed, and a share of the rest replaced by copies of others.

    No instance is of two kinds, copied ones included. ``target_class`` and ``keep`` are those of corruption=rare;
    ``mislabeled`` is the fraction of label_noise, of the instances that are not rare, and ``duplicates`` that of
    duplicates, of those that are neither. Flags are theirs.
    """

    target_class: str | int | None = None
    keep: int = 20
    mislabeled: float = 0.05
    duplicates: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share("corruption.mislabeled", self.mislabeled)
        check_share("corruption.duplicates", self.duplicates)
        self._parts()

    def apply(self, data: Data, seed: int) -> Data:
        """The data after all three, and all flags."""
        rare, noise, copies = self._parts()
        data = rare.apply(data, seed)
        plain = ~np.asarray(data.flags["rare"])
        data = _among(data, np.flatnonzero(plain), noise, "mislabeled", seed)
        plain &= ~np.asarray(data.flags["mislabeled"])
        return _among(data, np.flatnonzero(plain), copies, "duplicates", seed)

    def _parts(self) -> tuple[Rare, LabelNoise, Duplicates]:
        return (
            Rare(target_class=self.target_class, keep=self.keep),
            LabelNoise(fraction=self.mislabeled),
            Duplicates(fraction=self.duplicates),
        )


def _among(data: Data, rows: NDArray[np.int64], part: LabelNoise | Duplicates, setting: str, seed: int) -> Data:
    """A corruption of these training rows alone; ``setting`` is where its fraction is from.

    Raises:
        ConfigError: the fraction selects no instance.
    """
    if not round(part.fraction * len(rows)):
        raise ConfigError(
            f"corruption.{setting}={part.fraction} selects none of {len(rows)} training instances; take a larger share "
            "or more instances"
        )
    train = data.train
    some = replace(
        data,
        train=train.take(rows),
        display={part: shown[rows] if part == "train" else shown for part, shown in data.display.items()},
        flags={name: np.asarray(values)[rows] for name, values in data.flags.items()},
    )
    made = part.apply(some, seed)
    outside = {"original_label": train.y, "duplicate_of": np.full(len(train), -1)}  # of instances left as they were
    before = {name: np.zeros(len(train)) for name in made.flags} | outside | dict(data.flags)
    flags = {name: _placed(before[name].astype(v.dtype), rows, v) for name, v in made.flags.items()}
    display = {
        part: _placed(shown, rows, made.display[part]) if part == "train" else shown
        for part, shown in data.display.items()
    }
    split = Split(x=_placed(train.x, rows, made.train.x), y=_placed(train.y, rows, made.train.y), ids=train.ids)
    return replace(made, train=split, display=display, flags=flags)


def _placed(values: NDArray[Any], rows: NDArray[np.int64], new: NDArray[Any]) -> NDArray[Any]:
    result = values.copy()
    result[rows] = new
    return result
