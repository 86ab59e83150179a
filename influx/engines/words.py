"""Gradients of word embeddings by token: what two instances share is looked up, not compared position by position.

Row w of an embedding's gradient in one instance is the sum of its output's gradients over the occurrences of token w.
So a dot product of two instances has one term for each token that both contain (Yeh et al. 2022, arXiv:2202.11844).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influx.engines.autograd import gradients
from influx.engines.factors import OneHot, Product
from influx.engines.gradients import GradientsAt
from influx.engines.kernels import Block
from influx.engines.recorder import Recorder
from influx.engines.token_rows import TokenRows, dots
from influx.engines.uses import HANDLERS
from influx.errors import ConfigError, IncompatibleError
from influx.problem import Checkpoint, Split

WORDS_BYTES = {"cpu": 62 << 20, "cuda": 4 << 30}  # activations and word gradients of one block of instances
HELD = 8  # blocks of the side that is held, which keeps its word gradients alone
MOST = 4096  # instances of a block
PROBED = 3  # instances by which the word embedding is found
PROTECTED = ("max_norm", "sparse", "scale_grad_by_freq")  # settings of an embedding that its gradients do not survive


@dataclass(frozen=True)
class Embeddings:
    """Word embeddings of a model: names of their weights, and those that other layers use as well (tied)."""

    names: tuple[str, ...]
    tied: tuple[str, ...]


def embeddings(at: GradientsAt, split: Split, pattern: str | None) -> Embeddings:
    """Embeddings whose weights' names match ``pattern``; None takes those that look up the instances' own tokens.

    Raises:
        IncompatibleError: there is none, or its gradients cannot be told apart by token.
        ConfigError: the pattern matches none.
    """
    x, y = at.tensors(split.take(slice(0, PROBED)))
    _check_settings(at.module, pattern)
    found, recorder = _lookups(at, x, y)
    chosen = [
        name
        for name, indices in found.items()
        if (re.search(pattern, name) if pattern else any(_are_words(index, x) for index in indices))
    ]
    if not chosen and pattern and found:
        raise ConfigError(
            f"estimator.embedding={pattern} matches none of the model's embeddings, which are {', '.join(found)}; "
            "name one of them, or set estimator.embedding=null to have it found"
        )
    if not chosen:
        raise IncompatibleError(
            "word gradients need a model that looks its tokens up in an embedding, this one does not; choose "
            "model=text_encoder or text_decoder, or an estimator such as tracin_last"
        )
    parameters = at.parameters
    tied = tuple(name for name in chosen if id(parameters[name]) in recorder.free)
    at.block_size(split)  # holds the ways to compute gradients against plain autograd
    unknown = [name for name in chosen if at.route[name] != "factors"]
    if unknown:
        raise IncompatibleError(
            f"the gradient of {', '.join(unknown)} cannot be told apart by token and instance; choose a model that "
            "keeps instances in the first dimension, or an estimator such as tracincp"
        )
    return Embeddings(tuple(chosen), tied)


def _check_settings(module: nn.Module, pattern: str | None) -> None:
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Embedding) or (pattern and not re.search(pattern, f"{name}.weight")):
            continue
        active = [setting for setting in PROTECTED if getattr(layer, setting)]
        if active:
            raise IncompatibleError(
                f"the embedding {name} has {active[0]} set, so that its gradient is no sum over an instance's tokens "
                f"or belongs to no fixed weight; build the model without {active[0]}"
            )


def _lookups(at: GradientsAt, x: Tensor, y: Tensor) -> tuple[dict[str, list[Tensor]], Recorder]:
    """Weights that are looked up in, with the indices ``(b, L)`` of every lookup."""
    everything = {id(p): name for name, p in at.parameters.items()}
    recorder = _recorder(frozenset(everything), len(x))
    with torch.enable_grad(), recorder:
        result = at.module(x)
    found: dict[str, list[Tensor]] = {}
    for use in recorder.uses:
        term = use.term(result.detach().new_zeros(use.shape))
        if use.weight is not None and isinstance(term, Product) and isinstance(term.inputs, OneHot):
            found.setdefault(everything[use.weight], []).append(term.inputs.index)
    return found, recorder


def _recorder(selected: frozenset[int], instances: int) -> Recorder:
    """Sees lookups alone: other uses of a tied weight are left out."""
    return Recorder(selected, instances, {F.embedding: HANDLERS[F.embedding]})


def _are_words(index: Tensor, x: Tensor) -> bool:
    """Whether the indices are the instances' tokens, without the first or the last ones at most."""
    shared = min(index.shape[1], x.shape[1])
    if shared < min(2, x.shape[1]):
        return False
    ends = ((index[:, :shared], x[:, :shared]), (index[:, -shared:], x[:, -shared:]))
    return any(torch.equal(mine, theirs) for mine, theirs in ends)


@dataclass(frozen=True)
class Words:
    """Σ over shared tokens of products of word gradients; a kernel of ``similarity``.

    ``dropped`` tokens do not count. ``topk`` keeps the words of largest gradient norm of each instance and embedding.
    """

    names: tuple[str, ...]
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
        numbers = at.activations(left)
        element = next(iter(at.parameters.values())).element_size()
        return int(min(max(_budget(at) // (element * numbers), 1), MOST))

    def blocks(self, at: GradientsAt, split: Split) -> Iterator[tuple[slice, list[TokenRows]]]:
        """Word gradients block by block, one table for each embedding."""
        size = self.step(at, split)
        for start in range(0, len(split), size):
            part = slice(start, min(start + size, len(split)))
            yield part, self.of(at, split.take(part))

    def held(self, at: GradientsAt, split: Split) -> Iterator[tuple[slice, list[TokenRows]]]:
        """The same in blocks as large as fit without activations."""
        size = self.step(at, split)
        widest = sum(at.parameters[name].shape[1] for name in self.names) * split.x.shape[1]
        element = next(iter(at.parameters.values())).element_size()
        many = max(HELD * _budget(at) // (element * widest) // size, 1) * size
        for start in range(0, len(split), many):
            part = slice(start, min(start + many, len(split)))
            made = [tables for _, tables in self.blocks(at, split.take(part))]
            yield part, [TokenRows.joined(parts) for parts in zip(*made, strict=True)]

    def of(self, at: GradientsAt, split: Split) -> list[TokenRows]:
        """Word gradients ``∂L/∂E_w`` of instances that go through the model together."""
        x, y = at.tensors(split)
        own = [at.parameters[name] for name in self.names]
        recorder = _recorder(frozenset(map(id, own)), len(x))
        with torch.enable_grad(), recorder:
            result = at.module(x)
        seeds = _risk_gradient(at, result.detach(), y)
        found = gradients(result, [use.edge for use in recorder.uses], seeds)
        places: dict[int, list[tuple[Tensor, Tensor]]] = {id(p): [] for p in own}
        for use, g in zip(recorder.uses, found, strict=True):
            term = use.term(seeds.new_zeros(use.shape) if g is None else g.reshape(use.shape))
            assert isinstance(term, Product) and isinstance(term.inputs, OneHot) and use.weight is not None
            places[use.weight].append((term.inputs.index, term.gradients.vectors))
        return [self._kept(places[id(p)]) for p in own]

    def _kept(self, lookups: Sequence[tuple[Tensor, Tensor]]) -> TokenRows:
        index, vectors = (torch.cat([one[side] for one in lookups], 1) for side in (0, 1))
        rows = TokenRows.of(index, vectors).without(self.dropped)
        return rows if self.topk is None else rows.largest(self.topk)


def _budget(at: GradientsAt) -> int:
    return WORDS_BYTES["cuda" if next(iter(at.parameters.values())).is_cuda else "cpu"]


def _risk_gradient(at: GradientsAt, outputs: Tensor, y: Tensor) -> Tensor:
    """With respect to the outputs; in float64, since p - 1 of a fitted instance cancels."""
    exact = y.double() if y.is_floating_point() else y
    return at.task.output_gradient(outputs.double(), exact).to(outputs.dtype)
