"""Boosted ensembles at their own margins, many rounds at once, and sums over instances that share leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from influx.engines.forest import STRETCH_BYTES, TOGETHER, Array, Forest, Leaves


@dataclass(frozen=True)
class Block:
    """Consecutive rounds of the trained ensemble, k of them, with leaves numbered through the block.

    Attributes:
        train: ``(k, C, n)`` leaf of each training instance.
        test: ``(k, C, m)`` the same of test instances.
        g: ``(k, C, n)`` first derivatives of the training instances' risk before each round.
        h: ``(k, C, n)`` second derivatives.
        slope: ``(k, C, m)`` first derivatives of the test instances' risk before each round.
        unshrunk: ``(leaves,)`` v = -Σ g / (Σ h + l2).
        pull: ``(leaves,)`` -rate · factor / (Σ h + l2); 0 for leaves that do not follow from the data.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    g: Array
    h: Array
    slope: Array
    unshrunk: Array
    pull: Array


def blocks(forest: Forest) -> Iterator[Block]:
    """All rounds, a stretch of them at once."""
    for s in forest.stretches():
        rounds, (first, second, _), (g, h) = s.rounds, forest.sums[:, s.place], s.slopes
        below = second + forest.l2
        some = below > 0
        pull = np.where(some, -1.0 / np.where(some, below, 1.0), 0.0)
        fixed = np.repeat(forest.fixed[rounds].ravel(), forest.sizes[rounds].ravel())
        yield Block(
            *(s.train(s.numbers), s.test(s.numbers), s.train(g), s.train(h), s.test(g)),
            unshrunk=pull * first,
            pull=np.where(fixed, 0.0, forest.rate * forest.factor * pull),
        )


def add_matches(values: Array, ids: tuple[NDArray[np.int64], NDArray[np.int64]], terms: tuple[Array, Array]) -> None:
    """Add Σ over trees of 1[leaf of i = leaf of j] a_i b_j to ``values`` (n, m).

    ``ids`` are leaves (trees, n) and (trees, m), numbered through the trees, ``terms`` a and b of the same shapes.
    """
    (mine, theirs), (a, b), n = ids, terms, len(values)
    trees, leaves = len(mine), int(max(mine.max(), theirs.max())) + 1
    starts = np.arange(0, n * trees + 1, trees, dtype=np.int32)
    # Instances before leaves, one number for each tree: sums over trees are products with what test instances have.
    rows = csr_array((a.T.ravel(), mine.T.astype(np.int32, order="C").ravel(), starts), shape=(n, leaves))
    width = min(TOGETHER, max(16, STRETCH_BYTES // (8 * n)))
    for start in range(0, values.shape[1], width):
        part = slice(start, start + width)
        table = np.zeros((leaves, theirs[:, part].shape[1]))
        table[theirs[:, part], np.arange(table.shape[1])] = b[:, part]
        values[:, part] += np.asarray(rows @ table)


@dataclass
class Matches:
    """Gathers terms that come one round at a time, and adds them in blocks."""

    forest: Forest
    values: NDArray[np.float64]
    waiting: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    def add(self, t: int, mine: Tensor, theirs: Tensor) -> None:
        """Terms a ``(C, n)`` and b ``(C, m)`` of round t; the last round adds what is left."""
        self.waiting.append((t, mine, theirs))
        if t + 1 in {stop for _, stop in self.forest.spans}:
            rounds = [t for t, _, _ in self.waiting]
            f, first = self.forest, int(self.forest.first[rounds[0], 0])
            ids = [_numbered(f, leaves, rounds, first) for leaves in (f.train_leaves, f.test_leaves)]
            terms = torch.cat([a for _, a, _ in self.waiting]), torch.cat([b for _, _, b in self.waiting])
            add_matches(self.values, (ids[0], ids[1]), (terms[0].numpy(), terms[1].numpy()))
            self.waiting = []


def _numbered(forest: Forest, leaves: Leaves, rounds: list[int], first: int) -> NDArray[np.int64]:
    numbers = leaves[rounds].astype(np.int64) + forest.first[rounds, :, None] - first
    return np.asarray(numbers.reshape(-1, leaves.shape[-1]))
