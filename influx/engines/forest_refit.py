"""Boosted ensembles with the splits kept and all leaf values computed anew from weighted training instances.

The map R(w) goes through the rounds: with g and h at the margins that the earlier rounds left, a leaf's value becomes
-rate · factor · Σ w g / (Σ w h + l2), and every margin moves by its leaf's value. R(1) is the trained ensemble. Many
rows of weights are computed together, margins ``(C, n, rows)``: a leaf's sums then are sums of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.engines.forest import Forest, Leaves
from influx.engines.forest_losses import Losses
from influx.engines.forest_plans import refuse_averaged
from influx.errors import IncompatibleError

if TYPE_CHECKING:
    from influx.run import Run

REFIT_BYTES = 24 << 20  # of margins and derivatives that are held at once
LEAST, MOST = 8, 512  # rows of weights together
MANY_SINGLES = 0.05  # of the leaves
NO_SHARE = 1e-15  # probability of a class without any instance, where the base value is refitted
AT_OPTIMUM = 1e-4  # distance of the base value from the best one that counts as none


def boosted(run: Run) -> Forest:
    """The forest of a run.

    Raises:
        IncompatibleError: its trees are averaged, so that no leaf depends on another tree.
    """
    refuse_averaged(run.who, not run.forest.boosted)
    return run.forest


def warn_of_singles(run: Run, report: Mapping[str, int]) -> None:
    """Tell that derivatives do not see leaves vanish, where many hold one instance."""
    if report["leaves_of_one"] > MANY_SINGLES * report["leaves"]:
        run.warn(
            f"{report['leaves_of_one']} of {report['leaves']} leaves hold one training instance, whose removal empties "
            "them: a derivative does not see that, estimator=leaf_refit does"
        )


@dataclass(frozen=True)
class Round:
    """The trees of one round: leaf numbers run through the outputs.

    Attributes:
        train: ``(C n,)`` leaf of each training instance, output after output.
        test: ``(C m,)`` the same of test instances.
        values: ``(leaves,)`` what the library's leaves add.
        fixed: ``(leaves,)`` leaves whose values do not follow from the data.
        starts: ``(C + 1,)`` first leaf of each output's tree, and the number of leaves.
    """

    train: Tensor
    test: Tensor
    values: Tensor
    fixed: Tensor
    starts: NDArray[np.int64]

    @property
    def leaves(self) -> int:
        """In all trees of the round."""
        return int(self.starts[-1])

    def sums(self, values: Tensor) -> Tensor:
        """``(leaves, ...)`` sums of ``values`` (C, n, ...) over the training instances in each leaf."""
        flat = values.reshape(len(self.train), *values.shape[2:])
        return flat.new_zeros(self.leaves, *flat.shape[1:]).index_add_(0, self.train, flat)

    def spread(self, values: Tensor, outputs: int) -> Tensor:
        """``(C, n, ...)`` of ``values`` (leaves, ...) at each training instance's leaf."""
        found = values.index_select(0, self.train)
        return found.view(outputs, -1, *values.shape[1:])

    def spread_test(self, values: Tensor, outputs: int) -> Tensor:
        """``(C, m, ...)`` the same at test instances."""
        return values.index_select(0, self.test).view(outputs, -1, *values.shape[1:])


@dataclass(frozen=True)
class Refitter:
    """The map R for one forest; ``base`` says whether the base value follows the weights too."""

    forest: Forest
    base: bool = False

    @cached_property
    def train(self) -> Losses:
        """The risk of training instances."""
        f = self.forest
        return Losses.of(f.objective, f.train_y, f.outputs, f.newton)

    @cached_property
    def test(self) -> Losses:
        """The risk of test instances."""
        f = self.forest
        return Losses.of(f.objective, f.test_y, f.outputs, f.newton)

    @property
    def scale(self) -> float:
        """What a Newton step is multiplied by."""
        return self.forest.rate * self.forest.factor

    def round(self, t: int) -> Round:
        """The trees of round t."""
        f = self.forest
        starts = np.concatenate([[0], np.cumsum(f.sizes[t])])
        first = int(f.first[t, 0])
        return Round(
            train=_flat(f.train_leaves[t], starts),
            test=_flat(f.test_leaves[t], starts),
            values=torch.from_numpy(f.values[first : first + int(starts[-1])].copy()),
            fixed=torch.from_numpy(np.repeat(f.fixed[t], f.sizes[t])),
            starts=starts,
        )

    def step(self, trees: Round, first: Tensor, second: Tensor) -> Tensor:
        """``(leaves, ...)`` values from Σ w g and Σ w h; 0 for a leaf that lost all its instances."""
        below = second + self.forest.l2
        values = torch.where(below > 0, -self.scale * first / below, 0.0)
        if trees.fixed.any():
            values[trees.fixed] = trees.values[trees.fixed].view(-1, *(1,) * (values.ndim - 1))
        return values

    def start(self, weights: Tensor) -> Tensor:
        """``(C, rows)`` margins before the first round, for weights ``(n, rows)``."""
        base = torch.from_numpy(np.asarray(self.forest.base, np.float64))[:, None].expand(-1, weights.shape[1])
        if not self.base:
            return base
        return base + self._best(weights) - self._best(torch.ones_like(weights[:, :1]))

    def check_base(self) -> None:
        """Refuse to refit a base value that was no optimum.

        Raises:
            IncompatibleError: the trained ensemble starts from something else.
        """
        given = torch.from_numpy(np.asarray(self.forest.base, np.float64))
        best = self._best(torch.ones(len(self.forest.train_y), 1, dtype=torch.float64))[:, 0]
        off = given - best
        if self.forest.objective.name == "softmax":  # which does not see a constant
            off = off - off.mean()
        if float(off.abs().max()) > AT_OPTIMUM * (1 + float(best.abs().max())):
            raise IncompatibleError(
                "estimator.refit_base=true needs an ensemble that starts from the mean or the shares of the classes, "
                f"this one starts {float(off.abs().max()):.3g} away from them; set estimator.refit_base=false"
            )

    def _best(self, weights: Tensor) -> Tensor:
        """``(C, rows)`` constant margins of least risk."""
        total = weights.sum(0).clamp_min(1e-300)
        if self.forest.objective.name == "squared_error":
            return (weights * self.train.y[:, None]).sum(0, keepdim=True) / total
        labels = range(self.forest.outputs) if self.forest.outputs > 1 else [1]
        share = torch.stack([weights[self.train.y == label].sum(0) for label in labels]) / total
        if self.forest.outputs > 1:
            return share.clamp_min(NO_SHARE).log()
        share = share.clamp(NO_SHARE, 1 - NO_SHARE)
        return share.log() - (-share).log1p()

    def rows_at_once(self) -> int:
        """Rows of weights whose margins fit in ``REFIT_BYTES``."""
        f = self.forest
        each = 8 * ((4 * f.outputs + 1) * len(f.train_y) + 2 * f.outputs * len(f.test_y) + len(f.values))
        return int(np.clip(REFIT_BYTES // each, LEAST, MOST))

    def margins(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """R of weights ``(n, rows)``: margins ``(C, n, rows)`` and ``(C, m, rows)``, values ``(leaves, rows)``."""
        f = self.forest
        # Allocated before the rounds: small tensors kept between large ones that are freed would scatter the memory.
        kept = torch.empty(len(f.values), weights.shape[1], dtype=torch.float64)
        start = self.start(weights)[:, None]
        train = start.repeat(1, len(f.train_y), 1)
        test = start.repeat(1, len(f.test_y), 1)
        plain = f.objective.name == "squared_error" or not f.newton
        for t in range(f.rounds):
            trees, slopes = self.round(t), self.train.at(train)
            second = trees.sums(weights.expand_as(slopes.h)) if plain else trees.sums(slopes.h.mul_(weights))
            values = self.step(trees, trees.sums(slopes.g.mul_(weights)), second)
            train += trees.spread(values, f.outputs)
            test += trees.spread_test(values, f.outputs)
            kept[int(f.first[t, 0]) :][: len(values)] = values
        return train, test, kept

    @property
    def report(self) -> dict[str, int]:
        """How many rounds, trees and leaves there are, and leaves of one instance, which its removal empties."""
        f = self.forest
        singles = int((f.sums[2] == 1).sum())
        return {"rounds": f.rounds, "trees": f.sizes.size, "leaves": len(f.values), "leaves_of_one": singles}


def deletions(n: int, at_once: int) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Weights ``(n, rows)`` that leave one instance out each, in chunks, with the instances' numbers."""
    for start in range(0, n, at_once):
        rows = np.arange(start, min(start + at_once, n))
        weights = torch.ones(n, len(rows), dtype=torch.float64)
        weights[rows, np.arange(len(rows))] = 0.0
        yield rows, weights


def chunked(kept: NDArray[np.bool_], at_once: int) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Weights ``(n, rows)`` that keep the instances of each row of ``kept`` (K, n), in chunks, with their numbers."""
    for start in range(0, len(kept), at_once):
        rows = np.arange(start, min(start + at_once, len(kept)))
        yield rows, torch.from_numpy(kept[rows].T.astype(np.float64))


def _flat(leaves: Leaves, starts: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy((leaves.astype(np.int64) + starts[:-1, None]).ravel())
