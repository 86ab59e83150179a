"""What a library's trees must tell, and what they are grown from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Instances to grow trees from.

    Attributes:
        x: ``(n, d)`` inputs, float32.
        y: ``(n,)`` targets in float64, or class numbers from 0 without gaps.
        weights: ``(n,)`` weights, or None where all are 1. Only learners that remove in place see zeros.
        classes: number of classes; 0 for regression.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    weights: Array | None
    classes: int

    @property
    def outputs(self) -> int:
        """Margins of a boosted model: 1 for values and two classes, otherwise one per class."""
        return self.classes if self.classes > 2 else 1

    @property
    def shares(self) -> Array:
        """``(classes,)`` weighted shares of the classes."""
        counts = np.bincount(self.y, self.weights, self.classes)
        return np.asarray(counts / counts.sum())


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """Values of all leaves; its fields are those of ``engines.forest.Forest``."""

    base: Array
    values: Array
    sizes: NDArray[np.int64]
    fixed: NDArray[np.bool_]
    in_bag: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a library makes a leaf's value from sums over its instances; see ``engines.forest.Forest``."""

    boosted: bool = True
    rate: float = 1.0
    l2: float = 0.0
    factor: float = 1.0
    newton: bool = True
    tolerance: float = 1e-5


class Ensemble(Protocol):
    """Grown trees of one library."""

    @property
    def rounds(self) -> int:
        """T."""
        ...

    def margins(self, x: NDArray[np.float32]) -> Array:
        """``(C, n)`` what the library predicts: margins of boosted trees, means of averaged ones."""
        ...

    def leaves(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """``(T, C, n)`` leaf of every instance, numbered from 0 in each tree."""
        ...

    def seen(self, x: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], Array]:
        """Leaves of all instances and margins of those in ``rows``, with ``x`` handed over once."""
        ...

    def values(self, leaves: NDArray[np.int32]) -> Leaves:
        """What the leaves add; ``leaves`` (T, C, n) are those of the instances that the trees grew from."""
        ...

    def save(self, path: Path) -> None:
        """Write everything to a file, in the library's own format for text or as plain arrays."""
        ...


def numbered(is_leaf: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Leaf number of each node (N,) of one tree, where it is a leaf."""
    return (np.cumsum(is_leaf) - 1).astype(np.int32)
