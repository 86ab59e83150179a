"""Trees as plain arrays, for libraries that have no file format of their own but pickles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import IncompatibleError
from influx.learners.trees.ensemble import Array, Leaves, numbered

CELLS = 1 << 22  # of instances times trees that are walked at once
HELD = 256  # at most, training instances whose margins are held against the library's
ROUNDING = 1e-9  # relative, of sums in double precision
Part = tuple[NDArray[np.int64], Array, NDArray[np.int64], NDArray[np.int64], Array]
Library = Callable[[NDArray[np.float32]], Array]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """All nodes of all trees, one tree after the other.

    Attributes:
        feature: ``(N,)`` input that a node splits on; -1 for a leaf.
        threshold: ``(N,)`` instances with at most that go left.
        left: ``(N,)`` node, counted from the first of all trees.
        right: ``(N,)`` the same.
        value: ``(N, V)`` what a leaf adds to a margin (V = 1), or a leaf's mean and shares of classes.
        roots: ``(T, C)`` first nodes of boosted trees, ``(T, 1)`` of averaged ones.
        base: ``(C,)`` margins before the first round, zeros for averaged trees.
        in_bag: ``(T, n)`` how often averaged trees drew instances; ``(0, 0)`` for boosted ones.
        fixed: whether boosted trees of one leaf are left at 0 whatever the data.
        library: margins or means (C, n) as the library itself predicts them; None for trees that were saved.
    """

    feature: NDArray[np.int32]
    threshold: Array
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Array
    roots: NDArray[np.int32]
    base: Array
    in_bag: NDArray[np.uint16]
    fixed: bool = False
    library: Library | None = None

    @property
    def rounds(self) -> int:
        """T."""
        return len(self.roots)

    @property
    def averaged(self) -> bool:
        """Whether trees are averaged."""
        return self.in_bag.size > 0

    def ends(self, x: NDArray[np.float32], begin: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
        """``(T · C, n)`` nodes where instances end, tree after tree; they begin at roots or at ``begin`` (T · C, n)."""
        roots = self.roots.ravel()
        at = np.repeat(roots[:, None], len(x), 1) if begin is None else begin.copy()
        step = max(1, CELLS // len(roots))
        for start in range(0, len(x), step):
            part = at[:, start : start + step].ravel()
            rows = np.tile(np.arange(start, min(start + step, len(x))), len(roots))
            going = np.flatnonzero(self.feature[part] >= 0)
            while len(going):
                node = part[going]
                down = np.where(
                    x[rows[going], self.feature[node]] <= self.threshold[node], self.left[node], self.right[node]
                )
                part[going] = down
                going = going[self.feature[down] >= 0]
            at[:, start : start + step] = part.reshape(len(roots), -1)
        return at

    def margins(self, x: NDArray[np.float32]) -> Array:
        """``(C, n)`` sums or means of leaves."""
        return self._margins(self.ends(x))

    def _margins(self, ends: NDArray[np.int32]) -> Array:
        n = ends.shape[1]
        if self.averaged:
            total = np.zeros((n, self.value.shape[1]))
            for tree in ends:
                total += self.value[tree]
            return np.ascontiguousarray(total.T / self.rounds)
        found = np.tile(self.base[:, None], n)
        for t in self.value[ends, 0].reshape(*self.roots.shape, n):
            found += t
        return found

    def leaves(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """``(T, C, n)``; averaged trees are the same for all classes."""
        return self._leaves(self.ends(x))

    def _leaves(self, ends: NDArray[np.int32]) -> NDArray[np.int32]:
        found = self._numbers[ends].reshape(*self.roots.shape, -1)
        return np.broadcast_to(found, (len(found), len(self.base), found.shape[-1]))

    def seen(self, x: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], Array]:
        """Leaves, and margins of ``rows``."""
        ends = self.ends(x)
        return self._leaves(ends), self._margins(ends[:, rows])

    def values(self, leaves: NDArray[np.int32]) -> Leaves:
        """What the leaves add: those of averaged trees divided by their number."""
        leaf = [self.feature[part] < 0 for part in self._parts]
        trees = [self.value[part][own] for part, own in zip(self._parts, leaf, strict=True)]
        sizes = np.array([len(tree) for tree in trees], np.int64).reshape(self.roots.shape)
        sizes = np.broadcast_to(sizes, (len(sizes), len(self.base)))
        scale = self.rounds if self.averaged else 1
        fixed = sizes == 1 if self.fixed else np.zeros(sizes.shape, np.bool_)
        return Leaves(
            base=self.base,
            values=np.concatenate([tree.T.ravel() for tree in trees]) / scale,
            sizes=sizes,
            fixed=fixed,
            in_bag=self.in_bag.astype(np.int64) if self.averaged else None,
        )

    @cached_property
    def _parts(self) -> list[slice]:
        """Nodes of each tree."""
        ends = [*self.roots.ravel()[1:].tolist(), len(self.feature)]
        return [slice(start, end) for start, end in zip(self.roots.ravel().tolist(), ends, strict=True)]

    @cached_property
    def _numbers(self) -> NDArray[np.int32]:
        """Leaf number of each node within its tree."""
        return np.concatenate([numbered(self.feature[part] < 0) for part in self._parts])

    def check(self, x: NDArray[np.float32], name: str) -> None:
        """Hold margins of at most ``HELD`` of the inputs, evenly spaced, against the library that grew the trees.

        Raises:
            IncompatibleError: they differ by more than rounding, model ``name`` was misread.
        """
        if self.library is None:
            return
        some = np.ascontiguousarray(x[:: max(1, -(-len(x) // HELD))])
        theirs = self.library(some)
        gap = float(np.abs(self.margins(some) - theirs).max())
        allowed = ROUNDING * max(1.0, float(np.abs(theirs).max()))
        if not gap <= allowed:
            raise IncompatibleError(
                f"margins of the trees read from model={name} must equal the library's, they differ by up to {gap:.3g} "
                f"where {allowed:.1g} is allowed; install another version of scikit-learn, or choose model=lightgbm"
            )

    def save(self, path: Path) -> None:
        """Arrays in one npz file."""
        with path.open("wb") as f:
            np.savez(f, allow_pickle=False, **{name: getattr(self, name) for name in _saved()})


def _saved() -> list[str]:
    """Names of the arrays in a file."""
    return [field.name for field in fields(Nodes) if field.name != "library"]


def load(path: Path) -> Nodes:
    """Trees as ``Nodes.save`` writes them."""
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in _saved()}
    return Nodes(**found | {"fixed": bool(found["fixed"])})


def joined(
    trees: Sequence[Part],
    outputs: int,
    base: Array,
    library: Library | None,
    in_bag: NDArray[np.uint16] | None = None,
    fixed: bool = False,
) -> Nodes:
    """Trees, ``outputs`` for each round, of features (-1 for leaves), thresholds, left and right nodes, and values."""
    first = np.cumsum([0, *(len(part[0]) for part in trees)])
    return Nodes(
        feature=np.concatenate([part[0] for part in trees]).astype(np.int32),
        threshold=np.concatenate([part[1] for part in trees]),
        left=np.concatenate([part[2] + start for part, start in zip(trees, first, strict=False)]).astype(np.int32),
        right=np.concatenate([part[3] + start for part, start in zip(trees, first, strict=False)]).astype(np.int32),
        value=np.concatenate([part[4].reshape(len(part[0]), -1) for part in trees]).astype(np.float64),
        roots=first[:-1].reshape(-1, outputs).astype(np.int32),
        base=base,
        in_bag=np.zeros((0, 0), np.uint16) if in_bag is None else in_bag,
        fixed=fixed,
        library=library,
    )


def predicted(booster: Any, classes: int, x: NDArray[np.float32]) -> Array:
    """``(C, n)`` margins as one of scikit-learn's boosted ensembles predicts them; 0 ``classes`` for values."""
    found = booster.decision_function(x) if classes else booster.predict(x)
    return np.asarray(found, np.float64).reshape(len(x), -1).T
