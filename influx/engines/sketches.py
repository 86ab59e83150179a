"""Projections that cost little: hashed sums of coordinates, and products of projections of both sides of a layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from influx.engines.columns import columns, length
from influx.engines.convolutions import Convolved
from influx.engines.factors import OneHot, Side, Term
from influx.engines.layers import Flat, LayerRows, Weighted
from influx.engines.rows import Rows
from influx.streams import stream_seed

PIECE = 1 << 20  # signs drawn with one seed: part of what P is
WRITTEN_BYTES = 32 << 20  # gradients of one block of instances, written out
HELD_BYTES = 256 << 20  # of signs that are kept; the rest is drawn anew for every block of instances


@dataclass
class Sparse:
    """A count sketch (Charikar et al. 2002): a coordinate goes to one of D sums, with a random sign.

    Coordinates are cut into chunks of D, and each chunk is rotated by a random number of places, so that sums are over
    neighbours in memory. Two coordinates meet with probability 1/D, or never when they are in the same chunk: products
    are unbiased, and their variance is at most that of independent signs. p operations instead of p D.
    """

    dim: int
    seed: int
    size: int
    writes: int = field(default=WRITTEN_BYTES, init=False)
    _held: dict[int, tuple[Tensor, list[int]]] = field(default_factory=dict, init=False)
    _last: tuple[int, tuple[Tensor, list[int]]] | None = field(default=None, init=False)  # the piece drawn last

    @property
    def _chunks(self) -> int:
        """Chunks of a piece."""
        return max(PIECE // self.dim, 1)

    def project(self, rows: Rows) -> Tensor:
        """``(b, D)`` sums, at least in float32."""
        total, done = None, 0
        for part, first, written in columns(rows, self.dim):
            written = written.float() if written.itemsize < 4 else written
            total = written.new_zeros(length(rows), self.dim) if total is None else total
            self._add(total[part], written, first)
            done = first + written.shape[1]
        assert total is not None and done == self.size
        return total

    def _add(self, total: Tensor, written: Tensor, offset: int) -> None:
        """Coordinates ``offset ...`` chunk by chunk, each in at most two stretches of the sums."""
        done, width = 0, written.shape[1]
        while done < width:
            chunk, first = divmod(offset + done, self.dim)
            signs, turns = self._piece(chunk // self._chunks, written)
            inside, turn = chunk % self._chunks, turns[chunk % self._chunks]
            place = (first + turn) % self.dim
            count = min(width - done, self.dim - first, self.dim - place)
            own = signs[inside * self.dim + first :][:count]
            total[:, place : place + count].addcmul_(written[:, done : done + count], own)
            done += count

    def _piece(self, number: int, like: Tensor) -> tuple[Tensor, list[int]]:
        """Signs of a piece's coordinates, and how far each of its chunks is rotated."""
        if number in self._held:
            return self._held[number]
        if self._last is None or self._last[0] != number:
            self._last = number, self._draw(number, like)
        piece = self._last[1]
        if (len(self._held) + 1) * piece[0].nbytes <= HELD_BYTES:
            self._held[number] = piece
        return piece

    def _draw(self, number: int, like: Tensor) -> tuple[Tensor, list[int]]:
        own = torch.Generator().manual_seed(stream_seed(self.seed, str(number)))
        length = min(self._chunks * self.dim, self.size - number * self._chunks * self.dim)
        turns = torch.randint(self.dim, (-(-length // self.dim),), generator=own).tolist()
        return torch.empty(length).random_(2, generator=own).mul_(2).sub_(1).to(like), turns


@dataclass
class TwoSided:
    """For a weight whose gradient is Σ_s r_s c_sᵀ: Σ_s (P_r r_s)(P_c c_s)ᵀ, never written out (Kronecker structure).

    P_r has k_r rows and P_c has k_c with k_r k_c = D: random signs over √k, or, for a side with no more numbers than
    rows, those numbers in random places with random signs, which loses nothing. Of all ways to divide D the one with
    the least 1/k_r + 1/k_c over sides that lose is taken. Other parameters go through a sparse sketch. Layers add up.
    The variance is about D (1/k_r + 1/k_c) times that of independent entries, a few times as large.
    """

    dim: int
    seed: int
    writes: int = field(default=0, init=False)
    _parts: dict[int, Pair | Sparse] = field(default_factory=dict, init=False)

    def project(self, rows: Rows) -> Tensor:
        """``(b, D)``, at least in float32."""
        total: Tensor | None = None
        for number, layer in enumerate(rows.tensors()):
            found = self._projected(number, layer)
            found = found.float() if found.itemsize < 4 else found
            total = found if total is None else total.add_(found)
        assert total is not None
        return total

    def _projected(self, number: int, layer: LayerRows) -> Tensor:
        """Of one parameter, in the way that its first block of instances allowed."""
        own, found = stream_seed(self.seed, f"parameter/{number}"), sided(layer)
        if number not in self._parts:
            if found is None:
                self._parts[number] = Sparse(self.dim, own, layer.flat().shape[1])
            else:
                widths = width_of(found[0][0]), width_of(found[0][1])
                like = values_of(found[0])
                self._parts[number] = pair(widths, divided(self.dim, *widths), own, like)
        part = self._parts[number]
        if isinstance(part, Sparse):
            return part.project(Rows([Flat(layer.flat())]))
        return part.apply(layer).flatten(1)


@dataclass(frozen=True)
class Pair:
    """Projections of both sides, ``(d_r, k_r)`` and ``(d_c, k_c)``; None where a dense side stays as it is.

    ``sizes`` are k_r and k_c.
    """

    rows: Tensor | None
    columns: Tensor | None
    sizes: tuple[int, int]

    def apply(self, layer: LayerRows) -> Tensor:
        """``(b, k_r, k_c)`` of a layer whose gradients are sums of outer products, or are written out."""
        if not _factored(layer):
            high, wide = (
                k if side is None else len(side) for side, k in zip((self.rows, self.columns), self.sizes, strict=True)
            )
            whole = layer.flat().view(-1, high, wide)
            whole = whole if self.rows is None else self.rows.T @ whole
            return whole if self.columns is None else whole @ self.columns
        assert isinstance(layer, Weighted)
        terms = [through(term, self.rows, self.columns) for term in layer.terms]
        left, right = (torch.cat(side, 1) if len(side) > 1 else side[0] for side in zip(*terms, strict=True))
        if left.shape[1] == 1:
            return left.transpose(1, 2) * right
        return torch.bmm(left.transpose(1, 2), right)


def sided(layer: LayerRows) -> list[tuple[Side, Side]] | None:
    """Rows and columns of a weight's outer products, one pair for each use; None where there are none."""
    if not _factored(layer):
        return None
    assert isinstance(layer, Weighted)
    return [term.sides() for term in layer.terms]


def through(term: Term, rows: Tensor | None, columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """``(b, L, k)`` both sides of a term times matrices ``(d, k)``; a dense side as it is where None is given."""
    if isinstance(term, Convolved):
        return term.through(rows, columns)
    left, right = (_through(*each) for each in zip(term.sides(), (rows, columns), strict=True))
    return left, right


def _through(side: Side, matrix: Tensor | None) -> Tensor:
    if isinstance(side, OneHot):
        assert matrix is not None
        return matrix[side.index]
    return side.vectors if matrix is None else side.vectors @ matrix


def _factored(layer: LayerRows) -> bool:
    return isinstance(layer, Weighted) and all(term.extent is not None for term in layer.terms)


def width_of(side: Side) -> int:
    """Numbers in a vector of a side."""
    return side.size if isinstance(side, OneHot) else side.width


def values_of(sides: tuple[Side, Side]) -> Tensor:
    """A tensor of the sides' precision."""
    return next(side.vectors for side in sides if not isinstance(side, OneHot))


def pair(widths: tuple[int, int], sizes: tuple[int, int], seed: int, like: Tensor) -> Pair:
    """Random projections of two sides."""
    rows, columns = (
        _side(width, size, stream_seed(seed, name)).to(like)
        for width, size, name in zip(widths, sizes, ("rows", "columns"), strict=True)
    )
    return Pair(rows, columns, sizes)


def divided(dim: int, rows: int, columns: int) -> tuple[int, int]:
    """``(k_r, k_c)`` with product ``dim`` for sides with so many numbers."""

    def lost(k: int, width: int) -> float:
        return 0.0 if width <= k else 1 / k

    small = [k for k in range(1, int(dim**0.5) + 1) if dim % k == 0]
    ways = [(k, dim // k) for k in small] + [(dim // k, k) for k in small]
    return min(ways, key=lambda way: (lost(way[0], rows) + lost(way[1], columns), abs(way[0] - way[1]), way))


def _side(width: int, size: int, seed: int) -> Tensor:
    """``(width, size)``."""
    own = torch.Generator().manual_seed(seed)
    if width > size:
        return torch.empty(width, size).random_(2, generator=own).mul_(2).sub_(1).mul_(size**-0.5)
    matrix = torch.zeros(width, size)
    places = torch.randperm(size, generator=own)[:width]
    matrix[torch.arange(width), places] = torch.empty(width).random_(2, generator=own).mul_(2).sub_(1)
    return matrix
