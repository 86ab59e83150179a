"""Gradients of a block of instances, some columns at a time: outer products are written out only when asked for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from influx.engines.factors import Dense, Product, Side
from influx.engines.layers import Flat, LayerRows, Weighted
from influx.engines.rows import Rows
from influx.learners.torch.costs import MANY

SLICE = 4 << 20  # numbers of outer products that are written out at a time
CACHED = 256 << 10  # the same where they stay in the second-level cache of a processor, of CACHED / WIDE instances
WIDE = 1024


def columns(rows: Rows, beside: int | None = None) -> Iterator[tuple[slice, int, Tensor]]:
    """Pieces that together are ``rows.flat()``: their instances, first column, and ``(b', w)`` numbers.

    Columns come in order. Outer products are written out piece by piece, other layers are one piece for each parameter.
    Where each number goes to one of ``beside`` sums, pieces and sums of their instances fit a processor's cache.
    """
    first = 0
    for layer in rows.tensors():
        term = outer(layer)
        if term is None:
            found = whole(layer)
            yield slice(0, len(found)), first, found
            first += found.shape[1]
            continue
        left, right = (_vectors(side) for side in term.sides())
        size, numbers = len(left), SLICE
        if beside is not None and left.device.type == "cpu":
            size, numbers = min(max(CACHED // max(beside, WIDE), 1), len(left)), CACHED
        for some, others in _cuts(left.shape[2], right.shape[2], max(numbers // size, 1)):
            for start in range(0, len(left), size):
                part = slice(start, min(start + size, len(left)))
                yield part, first, _products(left[part, :, some], right[part, :, others])
            first += (some.stop - some.start) * (others.stop - others.start)


def length(rows: Rows) -> int:
    """Instances of a block."""
    layer = rows.layers[0]
    return layer.b if isinstance(layer, Weighted) else len(layer.flat())


def gathered(blocks: Iterator[Rows], count: int, norms: bool = True) -> tuple[Rows, Tensor | None]:
    """Blocks of ``count`` instances in all as one; with ``norms`` ``(count,)`` squared norms. One block stays as it is.

    It holds outer products as their vectors and everything else written out.
    """
    squares: list[Tensor] = []
    products: dict[int, list[Product]] = {}
    written: dict[int, Tensor] = {}
    start = 0
    for rows in blocks:
        if norms:
            squares.append(rows.squares())  # first: what it writes out is not written again
        stop = start + length(rows)
        if stop - start == count:
            return rows, squares[0] if norms else None
        for number, layer in enumerate(rows.tensors()):
            term = outer(layer)
            if term is not None:
                products.setdefault(number, []).append(term)
                continue
            found = whole(layer)
            if number not in written:
                written[number] = found.new_empty(count, found.shape[1])
            written[number][start:stop] = found
        start = stop
    layers: list[LayerRows] = [
        Flat(written[number]) if number in written else Weighted(count, [_joined(products[number])], False)
        for number in range(len(written) + len(products))
    ]
    return Rows(layers), torch.cat(squares) if norms else None


def spared(layers: list[LayerRows]) -> int:
    """By how many numbers vectors of outer products are fewer than these written out, of a block of one instance."""
    terms = [outer(part) for layer in layers for part in layer.tensors()]
    return sum(term.numel - sum(_vectors(side).numel() for side in term.sides()) for term in terms if term)


def outer(layer: LayerRows) -> Product | None:
    """The sides of one weight's gradients where products of gradients are cheaper by them; otherwise None."""
    if not isinstance(layer, Weighted) or layer.bias or len(layer.terms) > 1 or layer.way(MANY, MANY) != "factors":
        return None
    (term,) = layer.terms
    return term if isinstance(term, Product) and isinstance(term.inputs, Dense) else None


def whole(layer: LayerRows) -> Tensor:
    """``(b, p)`` gradients of one parameter, if possible not copied."""
    if isinstance(layer, Weighted) and not layer.bias:
        return layer.terms[0].ordered(layer.blocks)
    return layer.flat()


def _vectors(side: Side) -> Tensor:
    assert isinstance(side, Dense)
    return side.vectors


def _joined(terms: list[Product]) -> Product:
    """Of all their instances."""
    inputs = torch.cat([_vectors(term.inputs) for term in terms])
    gradients = torch.cat([term.gradients.vectors for term in terms])
    return Product(Dense(inputs), Dense(gradients), terms[0].inputs_first)


def _cuts(rows: int, columns: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of a matrix in parts of at most ``limit`` numbers: whole rows, or equal parts of a row."""
    step = max(limit // columns, 1)
    width = -(-columns // -(-columns // limit))
    for row in range(0, rows, step):
        for start in range(0, columns, width):
            yield slice(row, min(row + step, rows)), slice(start, min(start + width, columns))


def _products(left: Tensor, right: Tensor) -> Tensor:
    """``(b, d d')`` sums over positions of outer products of vectors ``(b, L, d)`` and ``(b, L, d')``."""
    if left.shape[1] == 1:
        return (left.transpose(1, 2) * right).flatten(1)
    return torch.bmm(left.transpose(1, 2), right).flatten(1)
