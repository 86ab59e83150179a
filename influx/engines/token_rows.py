"""Vectors of instances by token, and their products over the tokens that instances share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

PAIRS_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}  # products of two vectors that are written out at a time
FREQUENT = 128  # pairs of instances with a token from which a product of matrices is faster than to list them


@dataclass(frozen=True)
class TokenRows:
    """One entry for each token of each of ``count`` instances, in the order of tokens, then of instances.

    ``row`` and ``token`` (e,), ``vectors`` (e, d).
    """

    count: int
    row: Tensor
    token: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, index: Tensor, vectors: Tensor) -> TokenRows:
        """Sums over the occurrences of a token: tokens ``(b, L)``, vectors ``(b, L, d)``; zero sums have no entry."""
        count = len(index)
        key = index * count + torch.arange(count, device=index.device)[:, None]
        found, place = torch.unique(key, return_inverse=True)
        summed = vectors.new_zeros(len(found), vectors.shape[2])
        _add(summed, place.flatten(), vectors.flatten(0, 1))
        made = cls(count, found % count, torch.div(found, count, rounding_mode="floor"), summed)
        return made.where((summed != 0).any(1))

    @classmethod
    def joined(cls, parts: Sequence[TokenRows]) -> TokenRows:
        """Instances of one part after those of the other."""
        if len(parts) == 1:
            return parts[0]
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.count)
        token = torch.cat([part.token for part in parts])
        row = torch.cat([part.row + start for part, start in zip(parts, starts[:-1], strict=True)])
        order = torch.argsort(token, stable=True)
        return cls(starts[-1], row[order], token[order], torch.cat([part.vectors for part in parts])[order])

    def where(self, kept: Tensor) -> TokenRows:
        """Some entries ``(e,)``."""
        return TokenRows(self.count, self.row[kept], self.token[kept], self.vectors[kept])

    def without(self, tokens: Sequence[int]) -> TokenRows:
        """No entries of these tokens."""
        return self.where(~self._are(tokens)) if tokens else self

    def only(self, tokens: Sequence[int]) -> TokenRows:
        """Entries of these tokens alone."""
        return self.where(self._are(tokens))

    def _are(self, tokens: Sequence[int]) -> Tensor:
        return torch.isin(self.token, torch.tensor(tokens, dtype=self.token.dtype, device=self.token.device))

    def largest(self, k: int) -> TokenRows:
        """Each instance's k entries of largest norm; equal ones by token."""
        order = torch.argsort(self.vectors.norm(dim=1), descending=True, stable=True)
        order = order[torch.argsort(self.row[order], stable=True)]
        starts = torch.searchsorted(self.row[order], torch.arange(self.count, device=self.row.device))
        place = torch.arange(len(order), device=order.device) - starts[self.row[order]]
        kept = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        kept[order[place < k]] = True
        return self.where(kept)

    def squares(self) -> Tensor:
        """``(count,)`` squared norms over all tokens."""
        found = self.vectors.new_zeros(self.count)
        _add(found, self.row, self.vectors.square().sum(1))
        return found


def dots(left: TokenRows, right: TokenRows) -> Tensor:
    """``(b, m)`` sums over shared tokens of products of vectors.

    Tokens of many pairs are products of matrices, one token after the other; the pairs of all others are listed.
    """
    values = left.vectors.new_zeros(left.count, right.count)
    mine, theirs = _shared(left, right)
    many = (mine[:, 1] - mine[:, 0]) * (theirs[:, 1] - theirs[:, 0]) >= FREQUENT
    for (start, stop), (first, last) in zip(mine[many].tolist(), theirs[many].tolist(), strict=True):
        product = left.vectors[start:stop] @ right.vectors[first:last].T
        values[left.row[start:stop, None], right.row[None, first:last]] += product  # no pair is there twice
    flat = values.view(-1)
    for one, other in _pairs(mine[~many], theirs[~many], left.vectors):
        products = (left.vectors[one] * right.vectors[other]).sum(1)
        _add(flat, left.row[one] * right.count + right.row[other], products)
    return values


def matches(left: TokenRows, right: TokenRows) -> Iterator[tuple[Tensor, Tensor]]:
    """Entries of the two sides that have the same token, all pairs of them, piece by piece."""
    return _pairs(*_shared(left, right), left.vectors)


def _shared(left: TokenRows, right: TokenRows) -> tuple[Tensor, Tensor]:
    """Where the entries of each token that both have begin and end, ``(tokens, 2)`` on each side."""
    mine, theirs = (torch.unique_consecutive(side.token) for side in (left, right))
    both = mine[torch.isin(mine, theirs, assume_unique=True)]
    ends = []
    for side in (left, right):
        found = [torch.searchsorted(side.token, both, right=after) for after in (False, True)]
        ends.append(torch.stack(found, 1))
    return ends[0], ends[1]


def _pairs(mine: Tensor, theirs: Tensor, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Entries ``(p,)`` of the left and of the right side, all pairs within each token, a few at a time."""
    height, width = mine[:, 1] - mine[:, 0], theirs[:, 1] - theirs[:, 0]
    ends = torch.cumsum(height * width, 0)
    total = int(ends[-1]) if len(ends) else 0
    budget = PAIRS_BYTES["cuda" if like.is_cuda else "cpu"]
    size = max(budget // (3 * like.element_size() * max(like.shape[1], 1)), 1)
    for start, stop in pairwise([*range(0, total, size), total]):
        number = torch.arange(start, stop, device=ends.device)
        token = torch.searchsorted(ends, number, right=True)
        within = number - (ends - height * width)[token]
        yield (
            mine[token, 0] + torch.div(within, width[token], rounding_mode="floor"),
            theirs[token, 0] + within % width[token],
        )


def _add(sums: Tensor, index: Tensor, values: Tensor) -> None:
    """Add values where they belong, in an order that is always the same."""
    if sums.is_cuda:  # ``index_add_`` adds in any order there
        sums.index_put_((index,), values, accumulate=True)
    else:
        sums.index_add_(0, index, values)
