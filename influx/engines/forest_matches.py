"""Boosted ensembles at their own margins, many rounds at once, and sums over instances that share leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from influx.engines.forest import Forest, Leaves
from influx.engines.forest_losses import Losses, Slopes

MATCH_BYTES = 32 << 20  # of rounds, and of terms of leaves, that are held at once
MATCH_CHUNK = 256  # test instances compared at once


@dataclass(frozen=True)
class Block:
    """Consecutive rounds of the trained ensemble, k of them, with leaves numbered through the block.

    Attributes:
        train: ``(k, C, n)`` leaf of each training instance.
        test: ``(k, C, m)`` the same of test instances.
        slopes: ``(C, n, k)`` derivatives of the training instances' risk before each round.
        slope: ``(k, C, m)`` first derivatives of the test instances' risk before each round.
        unshrunk: ``(leaves,)`` v = -Σ g / (Σ h + l2).
        pull: ``(leaves,)`` -rate · factor / (Σ h + l2); 0 for leaves that do not follow from the data.
    """

    train: Tensor
    test: Tensor
    slopes: Slopes
    slope: Tensor
    unshrunk: Tensor
    pull: Tensor

    @property
    def leaves(self) -> int:
        """In all trees of the block."""
        return len(self.pull)


def blocks(forest: Forest) -> Iterator[Block]:
    """All rounds, as many at once as fit in ``MATCH_BYTES``."""
    losses = [Losses.of(forest.objective, y, forest.outputs, forest.newton) for y in (forest.train_y, forest.test_y)]
    margins = [np.tile(forest.base[:, None], len(y)) for y in (forest.train_y, forest.test_y)]
    for start, stop in spans(forest):
        trees, first = slice(start, stop), int(forest.first[start, 0])
        last = first + int(forest.sizes[trees].sum())
        ids, befores = [], []
        for side, leaves in enumerate((forest.train_leaves[trees], forest.test_leaves[trees])):
            numbers = leaves.astype(np.int64) + forest.first[trees, :, None]
            after = margins[side] + np.cumsum(forest.values[numbers], 0)  # (k, C, n)
            befores.append(torch.from_numpy(np.concatenate([margins[side][None], after[:-1]])).permute(1, 2, 0))
            margins[side] = after[-1]
            ids.append(torch.from_numpy(numbers - first))
        slopes = losses[0].at(befores[0])
        sums = [
            torch.zeros(last - first, dtype=torch.float64).index_add_(0, ids[0].ravel(), part.permute(2, 0, 1).ravel())
            for part in (slopes.g, slopes.h)
        ]
        below = sums[1] + forest.l2
        some = below > 0
        follows = some & ~torch.from_numpy(np.repeat(forest.fixed[trees].ravel(), forest.sizes[trees].ravel()))
        yield Block(
            train=ids[0],
            test=ids[1],
            slopes=slopes,
            slope=losses[1].at(befores[1]).g.permute(2, 0, 1),
            unshrunk=torch.where(some, -sums[0] / below, 0.0),
            pull=torch.where(follows, -forest.rate * forest.factor / below, 0.0),
        )


def spans(forest: Forest) -> list[tuple[int, int]]:
    """First round and end of each block."""
    instances = len(forest.train_y) + len(forest.test_y)
    each = 64 * forest.outputs * instances + 8 * int(forest.sizes.sum(axis=1).max()) * MATCH_CHUNK
    k = max(1, MATCH_BYTES // each)
    return [(start, min(start + k, forest.rounds)) for start in range(0, forest.rounds, k)]


def add_matches(values: NDArray[np.float64], ids: tuple[Tensor, Tensor], terms: tuple[Tensor, Tensor]) -> None:
    """Add Σ over trees of 1[leaf of i = leaf of j] a_i b_j to ``values`` (n, m).

    ``ids`` are leaves (trees, n) and (trees, m), numbered through the trees, ``terms`` a and b of the same shapes.
    """
    (mine, theirs), (a, b), n = ids, terms, len(values)
    mine, a = mine.T.contiguous(), a.T.contiguous()
    leaves = int(max(mine.max(), theirs.max())) + 1
    width = min(MATCH_CHUNK, max(16, MATCH_BYTES // (8 * n)))
    for start in range(0, values.shape[1], width):
        part = slice(start, start + width)
        table = torch.zeros(leaves, theirs[:, part].shape[1], dtype=torch.float64)
        table[theirs[:, part], torch.arange(table.shape[1]).expand(len(theirs), -1)] = b[:, part]
        values[:, part] += embedding_bag(mine, table, mode="sum", per_sample_weights=a).numpy()


@dataclass
class Matches:
    """Gathers terms that come one round at a time, and adds them in blocks."""

    forest: Forest
    values: NDArray[np.float64]
    waiting: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    def add(self, t: int, mine: Tensor, theirs: Tensor) -> None:
        """Terms a ``(C, n)`` and b ``(C, m)`` of round t; the last round adds what is left."""
        self.waiting.append((t, mine, theirs))
        if t + 1 in {stop for _, stop in spans(self.forest)}:
            rounds = [t for t, _, _ in self.waiting]
            f, first = self.forest, int(self.forest.first[rounds[0], 0])
            ids = tuple(_numbered(f, leaves, rounds, first) for leaves in (f.train_leaves, f.test_leaves))
            terms = (torch.cat([a for _, a, _ in self.waiting]), torch.cat([b for _, _, b in self.waiting]))
            add_matches(self.values, (ids[0], ids[1]), terms)
            self.waiting = []


def _numbered(forest: Forest, leaves: Leaves, rounds: list[int], first: int) -> Tensor:
    numbers = leaves[rounds].astype(np.int64) + forest.first[rounds, :, None] - first
    return torch.from_numpy(numbers.reshape(-1, leaves.shape[-1]))
