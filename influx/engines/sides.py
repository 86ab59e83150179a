"""The sides of a layer's outer products, of all its uses together."""

from __future__ import annotations

import torch

from influx.engines.convolutions import Convolved
from influx.engines.factors import Dense, OneHot, Side
from influx.engines.layers import LayerRows, Weighted


def factor_numbers(layer: LayerRows) -> int:
    """Numbers in both sides of one layer's outer products, all positions together."""
    if not isinstance(layer, Weighted) or any(term.extent is None for term in layer.terms):
        return 1
    return sum(term.extent[0] * term.extent[1] for term in layer.terms if term.extent is not None)


def sides_of(layer: LayerRows) -> tuple[Side, Dense, int | None] | None:
    """Rows and columns of the outer products of all uses, and the side with the bias; None when G is no sum of these.

    That side has one number more than its vectors, which is 1. Columns of a convolution are pixel by pixel.
    """
    if not isinstance(layer, Weighted) or any(term.extent is None for term in layer.terms):
        return None
    pairs = [term.by_pixel() if isinstance(term, Convolved) else term.sides() for term in layer.terms]
    rows, columns = (_joined([pair[number] for pair in pairs]) for number in (0, 1))
    if rows is None or not isinstance(columns, Dense):
        return None
    return rows, columns, layer.terms[0].inputs_side if layer.bias else None


def _joined(sides: list[Side]) -> Side | None:
    """Positions of all uses; None for tokens in one and numbers in another, as of a tied embedding."""
    if len(sides) == 1:
        return sides[0]
    dense = [side.vectors for side in sides if isinstance(side, Dense)]
    tokens = [side for side in sides if isinstance(side, OneHot)]
    if dense and tokens:
        return None
    return Dense(torch.cat(dense, 1)) if dense else OneHot(torch.cat([t.index for t in tokens], 1), tokens[0].size)


def shape_of(rows: Side, columns: Dense, ones: int | None) -> tuple[int, int]:
    """Of a weight with the bias that goes along."""
    height = rows.size if isinstance(rows, OneHot) else rows.width
    return height + (ones == 0), columns.width + (ones == 1)
