"""How instances go through averaged trees of which a part was cut off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from influx.learners.trees.ensemble import Array
from influx.learners.trees.fitted import TreesFitted, flat
from influx.learners.trees.nodes import Nodes
from influx.problem import Data

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Branches:
    """The nodes of T averaged trees, and the instances that go down them. Leaves are numbered through all trees.

    Attributes:
        nodes: of all trees.
        train: ``(n, d)`` inputs of training instances.
        test: ``(m, d)`` inputs of test instances.
    """

    nodes: Nodes
    train: NDArray[np.float32]
    test: NDArray[np.float32]

    @classmethod
    def of(cls, fitted: TreesFitted, data: Data) -> Branches | None:
        """Those of a trained model; None where trees are boosted."""
        nodes = fitted.ensemble
        if not (isinstance(nodes, Nodes) and nodes.averaged):
            return None
        return cls(nodes, flat(data.train), flat(data.test))

    def detours(self, x: NDArray[np.float32]) -> Numbers:
        """``(T, n)`` leaf of each instance if its own leaf were cut off: its way through the other side of that split.

        A leaf without a split above it stays.
        """
        ends = self.nodes.ends(x)
        above = self._parent[ends]
        other = self.nodes.left[above] + self.nodes.right[above] - ends
        return self._leaf[self.nodes.ends(x, np.where(above >= 0, other, ends).astype(np.int32))]

    def rerouted(self, counts: Array, x: NDArray[np.float32]) -> Numbers:
        """``(T, k)`` leaf of inputs ``x`` (k, d) where nodes without any of ``counts`` (leaves,) are cut off."""
        nodes, held = self.nodes, np.zeros(len(self.nodes.feature))
        held[self._leaf_nodes] = counts
        for inner in reversed(self._levels):
            held[inner] = held[nodes.left[inner]] + held[nodes.right[inner]]
        left = np.where(held[nodes.left] > 0, nodes.left, nodes.right)
        right = np.where(held[nodes.right] > 0, nodes.right, nodes.left)
        return self._leaf[replace(nodes, left=left, right=right).ends(x)]

    @cached_property
    def _leaf_nodes(self) -> Numbers:
        return np.flatnonzero(self.nodes.feature < 0)

    @cached_property
    def _leaf(self) -> Numbers:
        """``(N,)`` leaf number of each node that is one."""
        return np.cumsum(self.nodes.feature < 0) - 1

    @cached_property
    def _parent(self) -> Numbers:
        """``(N,)`` node above; -1 for roots."""
        inner = np.flatnonzero(self.nodes.feature >= 0)
        found = np.full(len(self.nodes.feature), -1, np.int64)
        found[self.nodes.left[inner]] = found[self.nodes.right[inner]] = inner
        return found

    @cached_property
    def _levels(self) -> list[Numbers]:
        """Nodes that split, those of the roots first."""
        found: list[Numbers] = []
        here = self.nodes.roots.ravel().astype(np.int64)
        while True:
            inner = here[self.nodes.feature[here] >= 0]
            if not len(inner):
                return found
            found.append(inner)
            here = np.concatenate([self.nodes.left[inner], self.nodes.right[inner]]).astype(np.int64)
