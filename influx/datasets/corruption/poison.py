"""Training instances crafted to change the prediction of chosen test instances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.choose import marked, need_classes
from influx.datasets.settings import check_count
from influx.errors import ConfigError, IncompatibleError
from influx.problem import Data, Split
from influx.streams import stream


@dataclass(frozen=True, kw_only=True)
class Poison:
    """For each of ``targets`` test instances, ``poisons`` training instances of another class are blended with it.

    The attacker wants a target to be predicted as a class that is not its own, drawn at random. The poison is
    ``opacity`` · target + (1 - ``opacity``) · instance, from instances of the wanted class, which keep their label, so
    nothing is mislabeled. With opacity 1 they are copies of the target with the wanted label. Poisoned instances stay
    in their rows; no two targets share one. The test label of a target becomes the wanted class: influence on a target
    is then influence on what the attacker wants, and the attack has succeeded if it is predicted as labelled.
    Flags, (n_train,): ``poison`` (bool), ``poison_of`` (int64, id of the target, -1 for others). (n_test,): ``target``
    (bool), ``original_label`` (int64).
    Source: Shafahi et al. 2018, arXiv:1804.00792, section 3.1 (watermarks), without the optimised feature collision.
    """

    targets: int = 10
    poisons: int = 10
    opacity: float = 0.9

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("targets", "poisons"):
            if getattr(self, name) is None:
                raise ConfigError(f"corruption.{name} must be a whole number of at least 1, got null; set it")
            check_count(f"corruption.{name}", getattr(self, name))
        if isinstance(self.opacity, bool) or not isinstance(self.opacity, int | float) or not 0 < self.opacity <= 1:
            raise ConfigError(
                f"corruption.opacity must be a number above 0 and at most 1, got {self.opacity!r}; correct it"
            )

    def apply(self, data: Data, seed: int) -> Data:
        """The poisoned data, and the flags that say which instances are what."""
        need_classes(data, "poison")
        if not np.issubdtype(data.train.x.dtype, np.floating):
            raise IncompatibleError(
                f"corruption=poison blends features, but those of {data.name} are whole numbers; choose another "
                "corruption"
            )
        if self.targets > len(data.test):
            raise ConfigError(
                f"corruption.targets={self.targets} is more than the {len(data.test)} test instances; lower it"
            )
        rng = stream(seed, "corruption/poison/targets")
        targets = rng.permutation(len(data.test))[: self.targets]
        wanted = (data.test.y[targets] + rng.integers(1, len(data.classes), len(targets))) % len(data.classes)
        rows = self._rows(data, wanted, seed)  # (targets, poisons)
        label = data.test.y.copy()
        label[targets] = wanted
        poison_of = np.full(len(data.train), -1, np.int64)
        poison_of[rows] = data.test.ids[targets][:, None]
        display = dict(data.display)
        if display:
            display["train"] = self._blend(display["train"], rows, display["test"][targets])
        return replace(
            data,
            train=replace(data.train, x=self._blend(data.train.x, rows, data.test.x[targets])),
            test=Split(x=data.test.x, y=label, ids=data.test.ids),
            display=display,
            flags={**data.flags, "poison": marked(len(data.train), rows.ravel()), "poison_of": poison_of},
            test_flags={
                **data.test_flags,
                "target": marked(len(data.test), targets),
                "original_label": data.test.y.copy(),
            },
            notes=(
                *data.notes,
                f"Poison: {rows.size} of {len(data.train)} training instances were blended with {len(targets)} test "
                f"instances (opacity {self.opacity:g}), whose test label is what the attacker wants.",
            ),
        )

    def _rows(self, data: Data, wanted: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """``(targets, poisons)`` different rows of the training split, of the wanted classes."""
        order = stream(seed, "corruption/poison/instances").permutation(len(data.train))
        left = {c: order[data.train.y[order] == c] for c in np.unique(wanted).tolist()}
        rows = np.empty((len(wanted), self.poisons), np.int64)
        for row, c in zip(rows, wanted.tolist(), strict=True):
            if len(left[c]) < self.poisons:
                raise ConfigError(
                    f"corruption.poisons={self.poisons} for {self.targets} targets is more than the training instances "
                    f"of class {data.classes[c]!r}; lower corruption.poisons or corruption.targets"
                )
            row[:], left[c] = left[c][: self.poisons], left[c][self.poisons :]
        return rows

    def _blend(self, values: NDArray[Any], rows: NDArray[np.int64], targets: NDArray[Any]) -> NDArray[Any]:
        blended = self.opacity * targets[:, None] + (1 - self.opacity) * values[rows]
        result = values.copy()
        result[rows] = np.round(blended) if np.issubdtype(values.dtype, np.integer) else blended
        return result
