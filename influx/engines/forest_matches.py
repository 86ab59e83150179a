"""Boosted ensembles at their own margins, many rounds at once, and sums over instances that share leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from influx.engines.forest import STRETCH_BYTES, TOGETHER, Forest, Leaves
from influx.engines.forest_losses import Losses, Slopes


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
    """All rounds, a stretch of them at once."""
    losses = [Losses.of(forest.objective, y, forest.outputs, forest.newton) for y in (forest.train_y, forest.test_y)]
    for train, test in zip(forest.stretches(forest.train_leaves), forest.stretches(forest.test_leaves), strict=True):
        slopes, slope = (
            loss.at(torch.from_numpy(s.before).permute(1, 2, 0)) for loss, s in zip(losses, (train, test), strict=True)
        )
        numbers = torch.from_numpy(train.numbers)
        sums = [
            torch.zeros(train.leaves, dtype=torch.float64).index_add_(0, numbers.ravel(), part.permute(2, 0, 1).ravel())
            for part in (slopes.g, slopes.h)
        ]
        below = sums[1] + forest.l2
        some, rounds = below > 0, train.rounds
        fixed = np.repeat(forest.fixed[rounds].ravel(), forest.sizes[rounds].ravel())
        yield Block(
            train=numbers,
            test=torch.from_numpy(test.numbers),
            slopes=slopes,
            slope=slope.g.permute(2, 0, 1),
            unshrunk=torch.where(some, -sums[0] / below, 0.0),
            pull=torch.where(some & ~torch.from_numpy(fixed), -forest.rate * forest.factor / below, 0.0),
        )


def add_matches(values: NDArray[np.float64], ids: tuple[Tensor, Tensor], terms: tuple[Tensor, Tensor]) -> None:
    """Add Σ over trees of 1[leaf of i = leaf of j] a_i b_j to ``values`` (n, m).

    ``ids`` are leaves (trees, n) and (trees, m), numbered through the trees, ``terms`` a and b of the same shapes.
    """
    (mine, theirs), (a, b), n = ids, terms, len(values)
    mine, a = mine.T.contiguous(), a.T.contiguous()
    leaves = int(max(mine.max(), theirs.max())) + 1
    width = min(TOGETHER, max(16, STRETCH_BYTES // (8 * n)))
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
        if t + 1 in {stop for _, stop in self.forest.spans}:
            rounds = [t for t, _, _ in self.waiting]
            f, first = self.forest, int(self.forest.first[rounds[0], 0])
            ids = tuple(_numbered(f, leaves, rounds, first) for leaves in (f.train_leaves, f.test_leaves))
            terms = (torch.cat([a for _, a, _ in self.waiting]), torch.cat([b for _, _, b in self.waiting]))
            add_matches(self.values, (ids[0], ids[1]), terms)
            self.waiting = []


def _numbered(forest: Forest, leaves: Leaves, rounds: list[int], first: int) -> Tensor:
    numbers = leaves[rounds].astype(np.int64) + forest.first[rounds, :, None] - first
    return torch.from_numpy(numbers.reshape(-1, leaves.shape[-1]))
