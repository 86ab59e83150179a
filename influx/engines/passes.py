"""Products of many instances' gradients with others', from passes over few instances at a time.

What a pass keeps should fit a processor's cache, but a matrix product of few rows is slow: gradients that are written
out are therefore collected over several passes, in memory that is used again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from influx.engines.layers import Weighted, lengths, multiplied
from influx.engines.rows import Rows

TOGETHER = 256  # instances per product, with which one is about as fast as it gets


@dataclass
class Collected:
    """Compares up to ``size`` instances at a time with ``theirs``, of ``m`` instances."""

    theirs: Rows
    m: int
    size: int
    _kept: dict[int, list[Tensor]] = field(default_factory=dict)  # by layer: gradients written out, in blocks

    def across(
        self, blocks: Iterator[tuple[slice, Rows]], n: int, block: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their products ``(b, m)`` and squares ``(b,)``, of ``n`` instances in ``blocks`` of ``block`` each.

        ``size`` is a multiple of ``block``.
        """
        for start in range(0, n, self.size):
            part = slice(start, min(start + self.size, n))
            count = part.stop - start
            yield part, *self._compare(islice(blocks, -(-count // block)), start, count)

    def _compare(self, blocks: Iterable[tuple[slice, Rows]], start: int, count: int) -> tuple[Tensor, Tensor]:
        """Products ``(count, m)`` and squares ``(count,)`` of instances from ``start`` on."""
        products, squares = [], []
        together: list[int] | None = None
        for rows_of, mine in blocks:
            part = slice(rows_of.start - start, rows_of.stop - start)
            others = self.theirs
            written = self._written(mine) if part.stop - part.start < count else []
            together = written if together is None else together
            if written == together:
                for number in together:
                    self._keep(number, mine, part)
                mine, others = mine.without(together), others.without(together)
            else:  # the module treats these instances in another way
                for number in together:
                    for rows in self._kept[number]:
                        rows[part] = 0
            if mine.layers:
                squares.append(mine.squares())  # first: they may need gradients written out, which products then use
                products.append(mine.dot(others))
        total = [torch.cat(found) if len(found) > 1 else found[0] for found in (products, squares) if found]
        if not together:
            return total[0], total[1]
        kept = [rows[:count] for number in together for rows in self._kept[number]]
        others_kept = [rows for number in together for rows in self._layer(self.theirs, number).blocks]
        dots, norms = multiplied(kept, others_kept), lengths(kept)
        return (total[0].add_(dots), total[1].add_(norms)) if total else (dots, norms)

    def _written(self, mine: Rows) -> list[int]:
        """Numbers of the layers whose products are those of written-out gradients."""
        pairs = list(zip(mine.layers, self.theirs.layers, strict=False))
        if len(mine.layers) != len(self.theirs.layers):  # a weight and its bias are apart in one of them
            return []
        return [
            number
            for number, (a, b) in enumerate(pairs)
            if isinstance(a, Weighted) and isinstance(b, Weighted) and a.bias == b.bias
            if a.way(self.size, self.m) == "written"
        ]

    def _keep(self, number: int, mine: Rows, part: slice) -> None:
        """Write out a layer's gradients, from the second time on where they are to be kept."""
        layer = self._layer(mine, number)
        if number not in self._kept:
            self._kept[number] = [rows.new_empty(self.size, rows.shape[1]) for rows in layer.blocks]
        layer.write([rows[part] for rows in self._kept[number]])

    @staticmethod
    def _layer(rows: Rows, number: int) -> Weighted:
        layer = rows.layers[number]
        assert isinstance(layer, Weighted)
        return layer
