"""Which embeddings of a model look words up, and which row belongs to which token of the dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from influx.engines.factors import OneHot, Product
from influx.engines.gradients import GradientsAt
from influx.engines.recorder import Recorder
from influx.engines.uses import HANDLERS
from influx.errors import ConfigError, IncompatibleError
from influx.problem import Split

WORDS_BYTES = {"cpu": 62 << 20, "cuda": 4 << 30}  # activations and word gradients of one block of instances
MOST = 4096  # instances of a block
PROBED = 3  # instances by which the embeddings are found
PROTECTED = ("max_norm", "sparse", "scale_grad_by_freq")  # settings of an embedding that its gradients do not survive


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a model: names of their weights, and those that other layers use as well (tied).

    ``labels`` has for each of them the dataset's token of every row (rows,), the first of those that share it; None
    where it does not look up the instances' tokens. A row of no token has a number above all tokens; ``others`` are the
    ones that are looked up beside the tokens, such as a beginning that the model adds.
    """

    names: tuple[str, ...]
    tied: tuple[str, ...]
    labels: tuple[Tensor | None, ...]
    others: tuple[int, ...]

    @property
    def of_words(self) -> bool:
        """Whether the tokens of all rows are known."""
        return all(label is not None for label in self.labels)


def embeddings(at: GradientsAt, splits: Sequence[Split], pattern: str | None, size: int) -> Embeddings:
    """Embeddings whose weights' names match ``pattern``; None takes those that look up the instances' own tokens.

    ``splits`` have all tokens, which are below ``size``.

    Raises:
        IncompatibleError: there is none, or its gradients cannot be told apart by token.
        ConfigError: the pattern matches none.
    """
    _check_settings(at.module, pattern)
    found, free = _lookups(at, splits[0].take(slice(0, PROBED)))
    tokens = np.unique(np.concatenate([np.unique(split.x) for split in splits]))
    rows = _rows_of_tokens(at, splits[0], tokens)
    chosen = [name for name in found if (re.search(pattern, name) if pattern else name in rows)]
    if not chosen and pattern and found:
        raise ConfigError(
            f"estimator.embedding={pattern} matches none of the model's embeddings, which are {', '.join(found)}; "
            "name one of them, or set estimator.embedding=null to have it found"
        )
    if not chosen and found:
        raise IncompatibleError(
            f"none of the model's embeddings, which are {', '.join(found)}, looks up every token in a row of its own; "
            "name the one to take by estimator.embedding, or choose an estimator such as tracincp"
        )
    if not chosen:
        raise IncompatibleError(
            "word gradients need a model that looks its tokens up in an embedding, this one does not; choose "
            "model=text_encoder, bag_of_words or text_decoder, or an estimator such as tracin_last"
        )
    parameters = at.parameters
    at.block_size(splits[0])  # holds the ways to compute gradients against plain autograd
    unknown = [name for name in chosen if at.route[name] != "factors"]
    if unknown:
        raise IncompatibleError(
            f"the gradient of {', '.join(unknown)} cannot be told apart by token and instance; choose a model that "
            "keeps instances in the first dimension, or an estimator such as tracincp"
        )
    labels: list[Tensor | None] = [None] * len(chosen)
    others: set[int] = set()
    for place, name in enumerate(chosen):
        if name in rows:
            mine, looked_up = rows[name]
            label = size + torch.arange(len(parameters[name]), device=mine.device)
            known = torch.from_numpy(tokens.astype(np.int64)).to(mine.device)
            labels[place] = label.scatter_reduce(0, mine, known, "amin", include_self=False)
            others |= {size + row for row in set(looked_up.tolist()) - set(mine.tolist())}
    tied = tuple(name for name in chosen if id(parameters[name]) in free)
    return Embeddings(tuple(chosen), tied, tuple(labels), tuple(sorted(others)))


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


def recorder_of(selected: frozenset[int], instances: int) -> Recorder:
    """Sees lookups alone: other uses of a tied weight are left out."""
    return Recorder(selected, instances, {F.embedding: HANDLERS[F.embedding]})


def block_of(at: GradientsAt, split: Split) -> int:
    """Instances that go through the model together."""
    element = next(iter(at.parameters.values())).element_size()
    return int(min(max(budget(at) // (element * at.activations(split)), 1), MOST))


def budget(at: GradientsAt) -> int:
    """Bytes for a block of instances."""
    return WORDS_BYTES["cuda" if next(iter(at.parameters.values())).is_cuda else "cpu"]


def _lookups(at: GradientsAt, split: Split) -> tuple[dict[str, list[Tensor]], set[int]]:
    """Weights that are looked up in, with the indices ``(b, L)`` of every lookup; ids of those used otherwise too."""
    everything = {id(p): name for name, p in at.parameters.items()}
    recorder = recorder_of(frozenset(everything), len(split))
    x, _ = at.tensors(split)
    with torch.enable_grad(), recorder:
        result = at.module(x)
    found: dict[str, list[Tensor]] = {}
    for use in recorder.uses:
        term = use.term(result.detach().new_zeros(use.shape))
        if use.weight is not None and isinstance(term, Product) and isinstance(term.inputs, OneHot):
            found.setdefault(everything[use.weight], []).append(term.inputs.index)
    return found, recorder.free


def _rows_of_tokens(at: GradientsAt, like: Split, tokens: NDArray[Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of embeddings that look up the instances' tokens: the rows of ``tokens`` (t,), and all rows that are looked up.

    A few texts are made up that have every token, and the same backwards: there a token has the row that it had before,
    unlike a position.
    """
    length, dtype = like.x.shape[1], like.x.dtype
    texts = np.resize(tokens.astype(dtype), (-(-len(tokens) // length), length))
    texts = np.concatenate([texts, texts[:, ::-1]])
    step = block_of(at, like)
    pieces = [texts[start : start + step] for start in range(0, len(texts), step)]
    seen: dict[str, list[list[NDArray[Any]]]] = {}
    for piece in pieces:
        first = np.zeros(len(piece), np.int64)
        for name, indices in _lookups(at, Split(x=piece, y=like.y[first], ids=like.ids[first]))[0].items():
            seen.setdefault(name, []).append([index.cpu().numpy() for index in indices])
    found, device = {}, next(iter(at.parameters.values())).device
    for name, by_piece in seen.items():
        whole = len(by_piece) == len(pieces) and len({len(indices) for indices in by_piece}) == 1
        for same in zip(*by_piece, strict=True) if whole else ():
            if len({index.shape[1:] for index in same}) != 1:
                continue
            rows = _rows(texts, np.concatenate(same), tokens)
            if rows is not None:
                all_rows = np.unique(np.concatenate([index.ravel() for part in by_piece for index in part]))
                found[name] = tuple(torch.from_numpy(a.astype(np.int64)).to(device) for a in (rows, all_rows))
                break
    return {name: (rows, all_rows) for name, (rows, all_rows) in found.items()}


def _rows(texts: NDArray[Any], index: NDArray[Any], tokens: NDArray[Any]) -> NDArray[Any] | None:
    """Which row each of ``tokens`` (t,) has; None if it depends on more than the token.

    The indices ``(b, L')`` may leave out the first or last tokens of the texts ``(b, L)``, or have others before or
    after them. Few tokens may share a row, such as those that the model does not know.
    """
    if index.ndim != 2 or len(index) != len(texts):
        return None
    length, width = texts.shape[1], index.shape[1]
    for moved in (0, width - length, 1, -1):
        mine, theirs = index[:, max(moved, 0) :], texts[:, max(-moved, 0) :]
        shared = min(mine.shape[1], theirs.shape[1])
        if shared < min(2, length):
            continue
        pairs = np.unique(np.stack([theirs[:, :shared].ravel(), mine[:, :shared].ravel()], 1), axis=0)
        if np.array_equal(pairs[:, 0], tokens) and 2 * len(np.unique(pairs[:, 1])) > len(tokens):
            return np.asarray(pairs[:, 1])
    return None
