"""Passes over the training set for influence with a curvature of layers: gradients are never written out as a whole."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor

from influx import progress
from influx.engines.blocks import Held
from influx.engines.gradients import GradientsAt
from influx.engines.layerwise import Layerwise, alike
from influx.engines.rows import Rows
from influx.engines.seen import Seen
from influx.engines.sides import factor_numbers
from influx.engines.solver_plans import HELD_BYTES
from influx.problem import Split
from influx.run import Run

FACTOR_BYTES = 64 << 20  # inputs and output gradients of all layers, position by position, in a block
LEFT_BYTES = 32 << 20  # of them at most, from several blocks, to be multiplied together
GROUP = 1024  # instances whose products are made together, so that what they are multiplied with is made rarely
MOST = 4096  # test instances at a time


def block_size(at: GradientsAt, split: Split, few: Rows) -> int:
    """Instances whose gradients fit in memory, their positions written out; ``few`` shows the layers."""
    numbers = sum(map(factor_numbers, few.layers))
    element = next(iter(at.parameters.values())).element_size()
    return max(1, min(at.block_size(split), FACTOR_BYTES // (element * numbers)))


class Group:
    """Products (b, m) of some blocks of gradients with what is held of m others."""

    def __init__(self, inverse: Layerwise, held: list[Held], count: int):
        """Of ``count`` gradients in all."""
        self.inverse, self.held = inverse, held
        m, like = len(held[0].tensors[0]), held[0].tensors[-1]
        # processors prefer wide results to tall ones
        self.values = like.new_zeros(m, count).T if count > m else like.new_zeros(count, m)
        self.left: list[list[tuple[Tensor, Tensor]]] = [[] for _ in held]
        self.filled = self.begun = 0  # rows that are known up to what is left, and those that are known

    def add(self, rows: Rows, count: int) -> tuple[Tensor, Tensor]:
        """One block of so many; returns its squared norms ``(b,)`` and sum ``(p,)``, float64."""
        layers = alike(rows, len(self.held))
        found: list[Tensor] = []
        squares: list[Tensor] = []
        for number, layer in enumerate(layers):
            into = self.values[self.filled : self.filled + count]
            met = self.inverse.parts[number].block.meet(layer, self.held[number], into)
            found.append(met.total.double())
            squares.append(met.squares.double())
            if met.sides is not None:
                self.left[number].append(met.sides)
        self.filled += count
        if sum(t.numel() * t.element_size() for sides in self.left for pair in sides for t in pair) > LEFT_BYTES:
            self.finish()
        return torch.stack(squares).sum(0), torch.cat(found)

    def finish(self) -> Tensor:
        """Multiply what is left; returns all products ``(b, m)``."""
        into = self.values[self.begun : self.filled]
        for part, held, sides in zip(self.inverse.parts, self.held, self.left, strict=True):
            if sides:
                left, right = (torch.cat(side) for side in zip(*sides, strict=True))
                sides.clear()
                part.block.finish((left, right), held, into)
        self.begun = self.filled
        return self.values


class LayerPasses:
    """Influence on a few test instances at a time, (1/n) ∇L(z_j)ᵀ (H_r + δI)⁻¹ ∇L(z_i), with H_r block by block."""

    def __init__(self, run: Run, inverse: Layerwise, seen: Seen):
        """Gradients have the precision of those that the curvature was made of."""
        self.run, self.inverse, self.seen, self.at = run, inverse, seen, run.curvature.layered
        self.few = next(rows for _, rows in self.at.blocks(run.test.take(slice(0, 1)), 1))
        self.size = block_size(self.at, run.train, self.few)

    @property
    def together(self) -> int:
        """Test instances at a time."""
        tensors = chain.from_iterable(each.tensors for each in self.inverse.held([self.few]))
        return max(1, min(HELD_BYTES // sum(t.numel() * t.element_size() for t in tensors), MOST))

    @torch.no_grad()
    def fill(self, values: Any, spread: Any, columns: slice) -> None:
        """Influence on the test instances ``columns``; there is no standard error."""
        test, n = self.run.test.take(columns), len(self.run.train)
        held = self.inverse.held(rows for _, rows in self.at.blocks(test, block_size(self.at, test, self.few)))
        group: Group | None = None
        first = last = 0
        with progress.task("influence", n) as done:
            for part, rows in self.at.blocks(self.run.train, self.size):
                if group is None:
                    first, last = part.start, min(part.start + max(GROUP // self.size, 1) * self.size, n)
                    group = Group(self.inverse, held, last - first)
                squares, total = group.add(rows, part.stop - part.start)
                if columns.start == 0:
                    self._look(part, rows, squares, total)
                if part.stop == last:
                    self._keep(values, slice(first, last), columns, group.finish())
                    group = None
                done(part.stop - part.start)

    def _keep(self, values: Any, part: slice, columns: slice, products: Tensor) -> None:
        each = products.double().div_(len(self.run.train))
        if self.seen.relative != "none":
            each /= self.seen.divisors[part].to(each)[:, None]
        values[part, columns] = each.cpu().numpy()

    def _look(self, part: slice, rows: Rows, squares: Tensor, total: Tensor) -> None:
        """What is to be known of each instance."""
        quadratic = solved = torch.zeros_like(squares)
        if self.seen.with_quadratic:
            quadratic = self.inverse.quadratic_of(rows).double()
        if self.seen.relative == "theta":
            solved = self.inverse.weighed(rows, lambda values: values**-2).double().sqrt()
        self.seen.note(part, total, squares.sqrt(), quadratic, solved)
