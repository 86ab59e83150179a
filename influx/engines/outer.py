"""Sums of outer products ``Σ_s r_s c_sᵀ``: second moments of a side, sums by token, and weighed products of many pairs.

Work is done in pieces that stay in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PANEL = 128  # columns of a moment at a time: what is above its diagonal is not computed
TILE = 1024  # numbers of gradients at a time, for all instances
PIECE_BYTES = 16 << 20  # gradients written out at a time
FEW = 64  # instances at least whose gradients are multiplied at a time


def moment(vectors: Tensor, ones: bool = False) -> Tensor:
    """``(d, d)`` sum of outer products of ``(b, d)`` vectors with themselves: the lower triangle.

    With ``ones`` every vector has one number more, which is 1.
    """
    b, d = vectors.shape
    found = vectors.new_zeros(d + ones, d + ones)
    step = PANEL if d >= 2 * PANEL else d
    for start in range(0, d, max(step, 1)):
        part = slice(start, min(start + step, d))
        torch.mm(vectors[:, start:].T, vectors[:, part], out=found[start:d, part])
    if ones:
        found[d, :d], found[d, d] = vectors.sum(0), b
    return found


def with_ones(vectors: Tensor) -> Tensor:
    """``(b, L, d)`` vectors with one more number each, which is 1."""
    return torch.cat([vectors, vectors.new_ones(*vectors.shape[:2], 1)], 2)


def by_token(index: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of ``(b, L, d)`` vectors over the positions with the same token ``(b, L)`` of an instance.

    Returns tokens in ascending order ``(u,)``, their instances, ascending within a token, and sums ``(u, d)``.
    """
    b = len(index)
    where, place = torch.unique(index * b + torch.arange(b, device=index.device)[:, None], return_inverse=True)
    sums = vectors.new_zeros(len(where), vectors.shape[2]).index_add_(0, place.flatten(), vectors.flatten(0, 1))
    return where // b, where % b, sums


Tokens = tuple[Tensor, Tensor, Tensor]


def token_products(mine: Tokens, theirs: Tokens, into: Tensor) -> None:
    """Add the dot products of what ``by_token`` returns to ``into`` (b, m): one product of matrices for each token."""
    other = dict(_runs(theirs[0]))
    for token, own in _runs(mine[0]):
        if (found := other.get(token)) is not None:
            into[mine[1][own, None], theirs[1][found]] += mine[2][own] @ theirs[2][found].T


def _runs(tokens: Tensor) -> Iterator[tuple[int, slice]]:
    """Tokens in ascending order and where each is."""
    each, counts = torch.unique_consecutive(tokens, return_counts=True)
    start = 0
    for token, count in zip(each.tolist(), counts.tolist(), strict=True):
        yield token, slice(start, start + count)
        start += count


def outer_products(mine: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], weights: Tensor, into: Tensor) -> None:
    """Add Σ_rc w_rc (l_i r_iᵀ)_rc (l_j r_jᵀ)_rc to ``into`` (b, m).

    ``mine`` are vectors ``(b, rows)`` and ``(b, columns)``, ``theirs`` those of m others; weights are
    ``(rows, columns)``. A product of matrices for every few rows.
    """
    (high, wide), size = weights.shape, into.element_size()
    step = max(TILE // wide, 1)
    together = max(2 * PIECE_BYTES // (size * step * wide), FEW)
    for part in _pieces(len(into), together):
        left, right, found = mine[0][part], mine[1][part, None], into[part]
        for rows in _pieces(high, step):
            held = ((theirs[0][:, rows, None] * weights[rows]).mul_(theirs[1][:, None])).flatten(1)
            found.addmm_((left[:, rows, None] * right).flatten(1), held.T)


def written_products(rows: Tensor, columns: Tensor, held: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
    """Add the products of ``b`` sums of outer products with ``held`` (m, rows x columns) to ``into`` (b, m).

    Sides are ``(b, L, rows)`` and ``(b, L, columns)``. Returns squared norms ``(b,)`` and the sum ``(rows, columns)``.
    """
    b, (high, wide), size = len(rows), (rows.shape[2], columns.shape[2]), rows.element_size()
    squares, total = rows.new_zeros(b), rows.new_zeros(high, wide)
    step = min(max(PIECE_BYTES // (size * FEW * wide), 1), high)
    for part in _pieces(b, max(PIECE_BYTES // (size * step * wide), FEW)):
        left, right, found = rows[part].transpose(1, 2), columns[part], into[part]
        for some in _pieces(high, step):
            made = torch.bmm(left[:, some], right)
            total[some] += made.sum(0)
            flat = made.flatten(1)
            found.addmm_(flat, held[:, some.start * wide : some.stop * wide].T)
            squares[part] += torch.linalg.vector_norm(flat, dim=1).square()
    return squares, total


def _pieces(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
