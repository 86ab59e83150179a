"""Gradients of every weight between small projections of its two sides, kept apart: P_r G P_cᵀ layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from influx.engines.factors import Dense, Side
from influx.engines.gradients import GradientsAt
from influx.engines.rows import Rows
from influx.engines.sketches import Pair, sided
from influx.errors import IncompatibleError
from influx.problem import Split
from influx.streams import stream_seed

Init = Literal["random", "pca"]
SIDE = 8000  # numbers at most in a side whose principal directions are looked for: half a gigabyte


@dataclass(frozen=True)
class Layers:
    """One ``Pair`` for each weight whose gradient is a sum of outer products of dense vectors; the rest is left out.

    Attributes:
        names: of the weights.
        numbers: their places among the parameters.
        pairs: projections of their sides, with orthogonal columns of lengths ``lengths``.
        lengths: 1 for principal directions; √(d_r d_c / k_r k_c) for random ones, so that products are unbiased.
    """

    names: list[str]
    numbers: list[int]
    pairs: list[Pair]
    lengths: list[float]
    writes: int = field(default=0, init=False)

    @property
    def slices(self) -> list[slice]:
        """Places of each weight's numbers in a projection."""
        ends, found = 0, []
        for pair in self.pairs:
            start, ends = ends, ends + math.prod(pair.sizes)
            found.append(slice(start, ends))
        return found

    @property
    def dim(self) -> int:
        """All together."""
        return sum(math.prod(pair.sizes) for pair in self.pairs)

    def project(self, rows: Rows) -> Tensor:
        """``(b, dim)``."""
        layers = rows.tensors()
        found = torch.cat(
            [pair.apply(layers[n]).flatten(1) for n, pair in zip(self.numbers, self.pairs, strict=True)], 1
        )
        return found.float() if found.itemsize < 4 else found


def low_rank(at: GradientsAt, train: Split, rank: int, init: Init, seed: int) -> Layers:
    """Projections of every side to ``rank`` numbers; a side that has no more stays as it is.

    Random directions are orthonormal. Principal ones are the leading eigenvectors of the uncentred second moments of
    inputs and of output gradients over the training split, all positions together.

    Raises:
        IncompatibleError: no weight qualifies.
    """
    few = at.rows(*at.tensors(train.take(slice(0, 1)))).tensors()
    widths = {number: _widths(sided(layer)) for number, layer in enumerate(few)}
    chosen = {number: found for number, found in widths.items() if found is not None}
    if not chosen:
        raise IncompatibleError(
            "the model has no weight that multiplies dense inputs, which low-rank gradients are made of; choose "
            "estimator=trak"
        )
    like = next(iter(at.parameters.values()))
    bases = _principal(at, train, chosen, rank) if init == "pca" else {}
    names, pairs, lengths = list(at.parameters), [], []
    for number, sizes in chosen.items():
        sides: list[Tensor | None] = []
        length = 1.0
        for name, width in zip(("rows", "columns"), sizes, strict=True):
            basis = bases.get((number, name))
            if basis is None and width > rank:
                basis = _orthonormal(width, rank, stream_seed(seed, f"{number}/{name}"))
                stretch = (width / rank) ** 0.5 if init == "random" else 1.0
                basis, length = basis * stretch, length * stretch
            sides.append(None if basis is None else basis.to(like))
        pairs.append(Pair(sides[0], sides[1], (min(rank, sizes[0]), min(rank, sizes[1]))))
        lengths.append(length)
    return Layers([names[number] for number in chosen], list(chosen), pairs, lengths)


def _widths(found: list[tuple[Side, Side]] | None) -> tuple[int, int] | None:
    if found is None or not all(isinstance(side, Dense) for side in found[0]):
        return None
    rows, columns = found[0]
    return rows.width, columns.width


def _orthonormal(width: int, size: int, seed: int) -> Tensor:
    own = torch.Generator().manual_seed(seed)
    basis: Tensor = torch.linalg.qr(torch.randn(width, size, dtype=torch.float64, generator=own))[0]
    return basis


def _principal(
    at: GradientsAt, train: Split, chosen: dict[int, tuple[int, int]], rank: int
) -> dict[tuple[int, str], Tensor]:
    """Bases ``(d, k)`` of the sides that are not too large."""
    moments = {
        (number, name): torch.zeros(width, width, dtype=torch.float64)
        for number, sizes in chosen.items()
        for name, width in zip(("rows", "columns"), sizes, strict=True)
        if rank < width <= SIDE
    }
    for _, rows in at.blocks(train):
        layers = rows.tensors()
        for number in chosen:
            for term in sided(layers[number]) or []:
                for name, side in zip(("rows", "columns"), term, strict=True):
                    if (number, name) in moments and isinstance(side, Dense):
                        flat = side.vectors.flatten(0, 1)
                        moments[number, name] += (flat.T @ flat).double().cpu()
    return {key: _leading(matrix, rank) for key, matrix in moments.items()}


def _leading(matrix: Tensor, rank: int) -> Tensor:
    vectors: Tensor = torch.linalg.eigh(matrix)[1]
    return vectors.flip(1)[:, :rank].contiguous()
