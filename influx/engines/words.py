"""Gradients of word embeddings by token: what two instances share is looked up, not compared position by position.

Row w of an embedding's gradient in one instance is the sum of its output's gradients over the occurrences of token w.
So a dot product of two instances has one term for each token that both contain (Yeh et al. 2022, arXiv:2202.11844).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influx.engines.autograd import gradients
from influx.engines.factors import OneHot, Product
from influx.engines.gradients import GradientsAt
from influx.engines.kernels import Block
from influx.engines.lookups import Embeddings, block_of, budget, recorder_of
from influx.engines.token_rows import TokenRows, dots
from influx.problem import Checkpoint, Split

HELD = 8  # blocks of the side that is held, which keeps its word gradients alone


@dataclass(frozen=True)
class Words:
    """Σ over shared tokens of products of word gradients; a kernel of ``similarity``.

    ``dropped`` tokens do not count. ``topk`` keeps the words of largest gradient norm of each instance and embedding.
    """

    embeddings: Embeddings
    dropped: tuple[int, ...] = ()
    topk: int | None = None

    def __call__(self, at: GradientsAt, checkpoint: Checkpoint, left: Split, right: Split) -> Iterator[Block]:
        """Test instances' word gradients are held, as many as fit."""
        for columns, theirs in self.held(at, right):
            for rows, mine in self.blocks(at, left):
                own = torch.stack([table.squares() for table in mine]).sum(0)
                values = torch.stack([dots(a, b) for a, b in zip(mine, theirs, strict=True)]).sum(0)
                yield Block(rows, columns, values, own, int((own == 0).sum()))

    def step(self, at: GradientsAt, left: Split) -> int:
        """Instances that go through the model together."""
        return block_of(at, left)

    def blocks(self, at: GradientsAt, split: Split) -> Iterator[tuple[slice, list[TokenRows]]]:
        """Word gradients block by block, one table for each embedding."""
        size = self.step(at, split)
        for start in range(0, len(split), size):
            part = slice(start, min(start + size, len(split)))
            yield part, self.of(at, split.take(part))

    def held(self, at: GradientsAt, split: Split) -> Iterator[tuple[slice, list[TokenRows]]]:
        """The same in blocks as large as fit without activations."""
        size = self.step(at, split)
        widest = sum(at.parameters[name].shape[1] for name in self.embeddings.names) * split.x.shape[1]
        element = next(iter(at.parameters.values())).element_size()
        many = max(HELD * budget(at) // (element * widest) // size, 1) * size
        for start in range(0, len(split), many):
            part = slice(start, min(start + many, len(split)))
            made = [tables for _, tables in self.blocks(at, split.take(part))]
            yield part, [TokenRows.joined(parts) for parts in zip(*made, strict=True)]

    def of(self, at: GradientsAt, split: Split) -> list[TokenRows]:
        """Word gradients ``∂L/∂E_w`` of instances that go through the model together."""
        x, y = at.tensors(split)
        own = [at.parameters[name] for name in self.embeddings.names]
        recorder = recorder_of(frozenset(map(id, own)), len(x))
        with torch.enable_grad(), recorder:
            result = at.module(x)
        seeds = _risk_gradient(at, result.detach(), y)
        found = gradients(result, [use.edge for use in recorder.uses], seeds)
        places: dict[int, list[tuple[Tensor, Tensor]]] = {id(p): [] for p in own}
        for use, g in zip(recorder.uses, found, strict=True):
            term = use.term(seeds.new_zeros(use.shape) if g is None else g.reshape(use.shape))
            assert isinstance(term, Product) and isinstance(term.inputs, OneHot) and use.weight is not None
            places[use.weight].append((term.inputs.index, term.gradients.vectors))
        return [self._kept(places[id(p)], label) for p, label in zip(own, self.embeddings.labels, strict=True)]

    def _kept(self, lookups: Sequence[tuple[Tensor, Tensor]], label: Tensor | None) -> TokenRows:
        """By the dataset's tokens, which may not be the numbers of their rows."""
        index, vectors = (torch.cat([one[side] for one in lookups], 1) for side in (0, 1))
        rows = TokenRows.of(index if label is None else label[index], vectors).without(self.dropped)
        return rows if self.topk is None else rows.largest(self.topk)


def _risk_gradient(at: GradientsAt, outputs: Tensor, y: Tensor) -> Tensor:
    """With respect to the outputs; in float64, since p - 1 of a fitted instance cancels."""
    exact = y.double() if y.is_floating_point() else y
    return at.task.output_gradient(outputs.double(), exact).to(outputs.dtype)
