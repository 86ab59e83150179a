"""Data of a stated size without their contents, for plans: arrays that repeat one number take no memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from influx.problem import Data, Split, TaskName


@runtime_checkable
class Describable(Protocol):
    """A dataset that can say its sizes where its contents are absent or too large to make for a plan."""

    def describe(self) -> Data | None:
        """Stand-ins of the right shapes; None where loading is the way."""
        ...


def described(
    name: str, shape: Sequence[int], n_train: int, n_test: int, classes: tuple[str, ...], task: TaskName
) -> Data:
    """``x`` (n, *shape) of zeros without memory of their own, labels in turn, ids from 0."""

    def split(n: int, first: int) -> Split:
        x: NDArray[np.float32] = np.broadcast_to(np.float32(0), (n, *shape))
        y = np.arange(n) % len(classes) if task == "classification" else np.linspace(-1, 1, n, dtype=np.float32)
        return Split(x=x, y=y, ids=np.arange(first, first + n))

    return Data(
        name=name,
        task=task,
        kind="image" if len(shape) == 3 else "tabular",
        train=split(n_train, 0),
        test=split(n_test, n_train),
        classes=classes,
        described=True,
        notes=(f"Planned from the sizes of {name} alone; its contents were not read.",),
    )
