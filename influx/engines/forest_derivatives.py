"""Derivatives of refitted ensembles in the weights of training instances, at w = 1.

With v_l = -Σ g / (Σ h + l2), a leaf's value before shrinking, its derivative is

    dθ_l/dw_i = -(rate · factor / (Σ h + l2)) (1[i in l] (g_i + h_i v_l) + Σ_{j in l} (dg_j + v_l dh_j)),

where dg_j and dh_j are what w_i moved through the margins of j in earlier rounds. Backwards through the rounds, from
test instances to weights, that takes n operations for each test instance and tree; forwards, from weights to margins,
n for each training instance and tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.forest import Forest
from influx.engines.forest_losses import Slopes
from influx.engines.forest_refit import Refitter, Round

BACK_BYTES = 24 << 20  # of what goes back through the rounds at once
LEAST, MOST = 8, 512  # columns together
NO_MOVE = 1e-12  # of a round's largest leaf value: a derivative that is rounding


@dataclass(frozen=True)
class Point:
    """A round of R(1): margins before it, derivatives there, and its leaves.

    Attributes:
        trees: leaf numbers.
        slopes: of the training instances' risk.
        test: ``(C, m)`` first derivatives of the test instances' risk.
        unshrunk: ``(leaves,)`` v.
        pull: ``(leaves,)`` -rate · factor / (Σ h + l2); 0 for leaves that do not follow from the data.
    """

    trees: Round
    slopes: Slopes
    test: Tensor
    unshrunk: Tensor
    pull: Tensor


@dataclass(frozen=True)
class Derivatives:
    """Derivatives of one boosted forest; ``cross`` keeps those of an output in an instance's other outputs."""

    forest: Forest
    cross: bool = True

    @cached_property
    def refitter(self) -> Refitter:
        """The map that is differentiated."""
        return Refitter(self.forest)

    def points(self) -> Iterator[Point]:
        """The rounds of R(1), first to last."""
        f, refitter = self.forest, self.refitter
        base = torch.from_numpy(np.asarray(f.base, np.float64))[:, None]
        train, test = base.repeat(1, len(f.train_y)), base.repeat(1, len(f.test_y))
        for t in range(f.rounds):
            trees, slopes = refitter.round(t), refitter.train.at(train, self.cross)
            first, second = trees.sums(slopes.g), trees.sums(slopes.h)
            values, below = refitter.step(trees, first, second), second + f.l2
            some = (below > 0) & ~trees.fixed
            yield Point(
                trees=trees,
                slopes=slopes,
                test=refitter.test.at(test).g,
                unshrunk=torch.where(some, -first / below, 0.0),
                pull=torch.where(some, -refitter.scale / below, 0.0),
            )
            train, test = train + trees.spread(values, f.outputs), test + trees.spread_test(values, f.outputs)

    @cached_property
    def recorded(self) -> list[Point]:
        """All rounds, for those who go through them more than once."""
        return list(self.points())

    @cached_property
    def last(self) -> tuple[Tensor, Tensor]:
        """First derivatives ``(C, n)`` and ``(C, m)`` of the risks of training and test instances after all rounds."""
        ones = torch.ones(len(self.forest.train_y), 1, dtype=torch.float64)
        train, test, _ = self.refitter.margins(ones)
        return self.refitter.train.at(train[:, :, 0]).g, self.refitter.test.at(test[:, :, 0]).g

    def at_once(self, rows: int) -> int:
        """Columns whose weights of ``rows`` margins fit in ``BACK_BYTES``."""
        return int(np.clip(BACK_BYTES // (8 * 4 * self.forest.outputs * max(1, rows)), LEAST, MOST))

    def back(self, targets: NDArray[np.int64], on_train: bool) -> Tensor:
        """``(n, k)`` minus the derivatives of the risks of k instances in the weights: influence through all margins.

        ``targets`` number test instances, or training instances with ``on_train``.
        """
        f, columns = self.forest, len(targets)
        slope = self.last[0 if on_train else 1][:, targets]  # (C, k)
        margins = torch.zeros(f.outputs, len(f.train_y), columns, dtype=torch.float64)
        found = torch.zeros(len(f.train_y), columns, dtype=torch.float64)
        place = torch.arange(columns).expand(f.outputs, -1)
        for point in reversed(self.recorded):
            trees, v = point.trees, point.unshrunk[:, None]
            leaves = trees.sums(margins)
            own = (trees.train if on_train else trees.test).view(f.outputs, -1)[:, targets]
            leaves.index_put_((own, place), slope, accumulate=True)
            first = trees.spread(leaves.mul_(point.pull[:, None]), f.outputs)
            value, slopes = trees.spread(v, f.outputs), point.slopes
            for part, weight in zip(first, slopes.g[..., None] + slopes.h[..., None] * value, strict=True):
                found.addcmul_(part, weight, value=-1)
            slopes.pull_back(margins, first, value)
        return found

    def alone(self, record: Callable[[int, Tensor], None]) -> Tensor:
        """Derivatives ``(C, n)`` of the instances' own margins in their weights, no other instance's margin moving.

        ``record`` gets each round's number and the derivatives ``(C, n)`` of each instance's own leaves.
        """
        f = self.forest
        moved = torch.zeros(f.outputs, len(f.train_y), dtype=torch.float64)
        for t, point in enumerate(self.points()):
            first, second = point.slopes.along(moved)
            v, pull = (point.trees.spread(values, f.outputs) for values in (point.unshrunk, point.pull))
            own = pull * (point.slopes.g + first + v * (point.slopes.h + second))
            record(t, own)
            moved = moved + own
        return moved

    def forward(self, rows: NDArray[np.int64], top: int) -> tuple[Tensor, Tensor]:
        """Influence of some instances when only margins in the ``top`` most moved leaves of each tree count.

        Returns ``(m, rows)`` on test instances and ``(rows,)`` on the instances themselves.
        """
        f, columns = self.forest, torch.arange(len(rows))
        moved = torch.zeros(f.outputs, len(f.train_y), len(rows), dtype=torch.float64)
        tests = torch.zeros(f.outputs, len(f.test_y), len(rows), dtype=torch.float64)
        for point in self.recorded:
            trees, v = point.trees, point.unshrunk[:, None]
            own = trees.train.view(f.outputs, -1)[:, rows]  # (C, rows)
            least = NO_MOVE * self.refitter.scale * float(v.abs().max())
            counted = trees.spread(_most_moved(trees, moved, own, top, least), f.outputs)
            counted[:, rows, columns] = True
            first, second = point.slopes.along(moved)
            inherited = trees.sums((first + second * trees.spread(v, f.outputs)) * counted)
            direct = point.slopes.g[:, rows] + point.slopes.h[:, rows] * point.unshrunk[own]
            inherited.index_put_((own, columns.expand(f.outputs, -1)), direct, accumulate=True)
            values = inherited * point.pull[:, None]
            moved += trees.spread(values, f.outputs) * counted
            tests += trees.spread_test(values, f.outputs)
        train, test = self.last
        return -(tests * test[..., None]).sum(0), -(moved[:, rows, columns] * train[:, rows]).sum(0)


def _most_moved(trees: Round, moved: Tensor, own: Tensor, top: int, least: float) -> Tensor:
    """``(leaves, rows)`` whether a leaf is among the ``top`` of its tree by Σ |moved|.

    Sums that are equal in single precision count as equal, and those below ``least`` as 0, since many are but for
    rounding: then the instance's own leaf comes first, and the others in their order.
    """
    size = trees.sums(moved.abs())
    size = torch.where(size < least, 0.0, size).float()
    place = (own, torch.arange(own.shape[1]).expand(own.shape[0], -1))
    size[place] = torch.nextafter(size[place], torch.tensor(torch.inf))
    chosen = torch.zeros_like(size, dtype=torch.bool)
    for start, stop in pairwise(trees.starts):
        best = size[start:stop].sort(dim=0, descending=True, stable=True).indices[:top]
        chosen[start:stop].scatter_(0, best, True)
    return chosen
