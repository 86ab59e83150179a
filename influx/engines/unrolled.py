"""Influence through the whole training: tangents of training instances or adjoints of test risks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import progress
from influx.engines.curves import Curves
from influx.engines.gradients import Gradients, GradientsAt
from influx.engines.path import Path
from influx.engines.products import Hessians, Vectors
from influx.engines.unroll import Motion, Steps
from influx.learners.torch.sequential import State
from influx.problem import Split

MOTIONS_BYTES = 1 << 30  # tangents or adjoints carried through the training at once; more take more replays
BLOCK_BYTES = 1 << 20  # of them advanced together: about a core's cache
GROWTH_POINTS = 64  # steps at which the size of tangents or adjoints is noted


@dataclass(frozen=True)
class Members:
    """The batch of one step: rows of the training split (b,) and their gradients (b, p)."""

    rows: Tensor
    flat: Tensor
    sizes: list[int]
    shapes: list[torch.Size]

    def vectors(self, flat: Tensor) -> Vectors:
        """``(K, p)`` as one tensor per parameter."""
        parts = zip(flat.split(self.sizes, 1), self.shapes, strict=True)
        return [part.reshape(-1, *shape) for part, shape in parts]


@dataclass
class Growth:
    """How large adjoints are along the training: step → sum of squares and number, in the order of the first sight."""

    squares: dict[int, tuple[float, int]] = field(default_factory=dict)

    def note(self, step: int, motions: list[Motion]) -> None:
        """Add adjoints to those of a step."""
        found = torch.cat([m.norms() for m in motions]).square()
        total, count = self.squares.get(step, (0.0, 0))
        self.squares[step] = (total + float(found.sum()), count + len(found))

    @property
    def total(self) -> float:
        """Logarithm of the last root mean square over the first; 0 when one of them is zero."""
        means = [total / count for total, count in self.squares.values()]
        return 0.5 * math.log(means[-1] / means[0]) if means and means[0] > 0 and means[-1] > 0 else 0.0


@dataclass(frozen=True)
class Unroller:
    """Unrolls one recorded training from step ``first`` on.

    Without ``curvature`` it leaves out how gradients depend on parameters (HyDRA's fast variant).
    """

    path: Path
    gradients: Gradients
    first: int = 0
    curvature: bool = True

    def _steps(self) -> Steps:
        return Steps(self.path.fitted)

    @property
    def total(self) -> int:
        """Steps of the training."""
        return self.path.total

    def _members(self, at: GradientsAt, state: State) -> tuple[Members, Tensor, Tensor]:
        rows, x, y = self.path.batch(state.step)
        params = list(at.parameters.values())
        flat = at.rows(x, y).flat()
        return Members(rows, flat, [p.numel() for p in params], [p.shape for p in params]), x, y

    def _noted(self) -> set[int]:
        return set(np.linspace(self.first, self.total - 1, GROWTH_POINTS).round().astype(int).tolist())

    def _round(self, size: int, states: int) -> int:
        """How many motions fit in memory."""
        element = self.path.fitted.recipe.dtype.itemsize
        return max(1, MOTIONS_BYTES // (size * element * (1 + states)))

    @torch.no_grad()
    def tangents(self, tracked: NDArray[np.int64], leave_out: bool) -> Iterator[tuple[slice, Tensor]]:
        """dθ_T/dw_i of the instances in ``tracked`` (rows of the recipe): part of them, and ``(K, p)``.

        With ``leave_out`` along the removal itself: i's own curvature is taken out of its batches (the survey's
        Eq. 79 with ε = -1/n).
        """
        steps = self._steps()
        size = sum(p.numel() for p in self.path.fitted.build(0).parameters())
        element = self.path.fitted.recipe.dtype.itemsize
        states = len(self.path.fitted.recipe.optimizer.slots([]))
        at_once, block = self._round(size, states), max(8, BLOCK_BYTES // (size * element))
        for start in range(0, len(tracked), at_once):
            part = slice(start, min(start + at_once, len(tracked)))
            mine = torch.from_numpy(tracked[part]).to(self.path.fitted.device)
            motions = self._carried(steps, mine, block, leave_out)
            yield part, torch.cat([torch.cat([p.flatten(1) for p in m.params], 1) for m in motions])

    def _carried(self, steps: Steps, tracked: Tensor, block: int, leave_out: bool) -> list[Motion]:
        recipe, path = self.path.fitted.recipe, self.path
        place = torch.full((len(recipe.ids),), -1, device=tracked.device)
        place[tracked] = torch.arange(len(tracked), device=tracked.device)
        motions = [steps.still(len(part)) for part in tracked.split(block)]
        at: GradientsAt | None = None
        with progress.task("unrolling", self.total - self.first) as done:
            for state in path.forward(self.first, self.total):
                if state.step == self.total:
                    break
                if at is None:
                    at, hessians = self.gradients.of(state.module), steps.hessians(state)
                members, x, y = self._members(at, state)
                product = hessians.of(x, y) if self.curvature else None
                gradient = [v[0] for v in members.vectors(members.flat.mean(0, keepdim=True))]
                places = place[members.rows]
                for number, motion in enumerate(motions):
                    dgrads = product(motion.params) if product else [torch.zeros_like(p) for p in motion.params]
                    self._inject(dgrads, motion, members, places - number * block, hessians, x, y, leave_out)
                    motions[number] = steps.push(state, gradient, motion, dgrads)
                done(1)
        return motions

    def _inject(
        self,
        dgrads: Vectors,
        motion: Motion,
        members: Members,
        places: Tensor,
        hessians: Hessians,
        x: Tensor,
        y: Tensor,
        leave_out: bool,
    ) -> None:
        """Add what weighing a member does to the batch gradient to the tangent at its place."""
        mine = ((places >= 0) & (places < len(motion.params[0]))).nonzero()[:, 0]
        if not len(mine):
            return
        where, size = places[mine], len(places)
        for d, g in zip(dgrads, members.vectors(members.flat[mine]), strict=True):
            d.index_add_(0, where, g, alpha=1 / size)
        if leave_out:
            own = hessians.each(x[mine], y[mine], [p[where] for p in motion.params])
            for d, h in zip(dgrads, own, strict=True):
                d.index_add_(0, where, h, alpha=-1 / size)

    @torch.no_grad()
    def adjoints(self, values: NDArray[np.float64], own: NDArray[np.float64] | None, curves: Curves) -> Growth:
        """Subtract dL(z_j; θ_T)/dw_i from ``values`` (n_train, n_test), and dL(z_i; θ_T)/dw_i from ``own`` if given."""
        train, test = self.gradients.train, self.gradients.test
        row_of = self.path.rows_in(train)
        steps, final = self._steps(), self.gradients.at(self.path.fitted.checkpoints[-1])
        states = len(self.path.fitted.recipe.optimizer.slots([]))
        at_once, growth = self._round(final.size, states), Growth()
        sums = torch.from_numpy(values)
        for start in range(0, len(test), at_once):
            part = slice(start, min(start + at_once, len(test)))
            for step, rows, dots in self._backward(steps, final, test.take(part), growth):
                into = row_of[rows]
                known = into >= 0
                found = dots[known].double()
                sums[:, part].index_add_(0, into[known], found)
                curves.add(step, into[known].numpy(), part, found.numpy())
        if own is None:
            return growth
        for start in range(0, len(train), at_once):
            part = slice(start, min(start + at_once, len(train)))
            for step, rows, dots in self._backward(steps, final, train.take(part), Growth()):
                into = row_of[rows]
                mine = ((into >= part.start) & (into < part.stop)).nonzero()[:, 0]
                gained = dots[mine, into[mine] - part.start].double().numpy()
                own[into[mine].numpy()] += gained
                curves.add_own(step, into[mine].numpy(), gained)
        return growth

    def growth(self, targets: Split) -> Growth:
        """How the derivative of these risks with respect to the parameters grows from the end to the start."""
        growth = Growth()
        final = self.gradients.at(self.path.fitted.checkpoints[-1])
        for _ in self._backward(self._steps(), final, targets, growth):
            pass
        return growth

    def _backward(
        self, steps: Steps, final: GradientsAt, targets: Split, growth: Growth
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Step, rows of its batch, and ``(b, K)`` minus the derivatives of the targets' risks by their weights."""
        element = self.path.fitted.recipe.dtype.itemsize
        block = max(8, BLOCK_BYTES // (final.size * element))
        motions = []
        for _, rows in final.blocks(targets, block):
            flat, params = rows.flat(), list(final.parameters.values())
            parts = flat.split([p.numel() for p in params], 1)
            still = steps.still(len(flat))
            motions.append(Motion([g.reshape(p.shape) for g, p in zip(parts, still.params, strict=True)], still.slots))
        noted = self._noted()
        growth.note(self.total, motions)
        at: GradientsAt | None = None
        with progress.task("unrolling backwards", self.total - self.first) as done:
            for state in self.path.backward(self.first, self.total):
                if at is None:
                    at, hessians = self.gradients.of(state.module), steps.hessians(state)
                members, x, y = self._members(at, state)
                product = hessians.of(x, y) if self.curvature else None
                gradient = [v[0] for v in members.vectors(members.flat.mean(0, keepdim=True))]
                dots = []
                for number, motion in enumerate(motions):
                    before, dgrads = steps.pull(state, gradient, motion)
                    dots.append(members.flat @ torch.cat([d.flatten(1) for d in dgrads], 1).T)
                    if product:
                        moved = [p + change for p, change in zip(before.params, product(dgrads), strict=True)]
                        before = Motion(moved, before.slots)
                    motions[number] = before
                if state.step in noted:
                    growth.note(state.step, motions)
                done(1)
                yield state.step, members.rows.cpu(), torch.cat(dots, 1).cpu() / -len(members.rows)
