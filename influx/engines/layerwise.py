"""The inverse of a curvature that has one block per layer and nothing between layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from influx.engines.blocks import OTHER_WAYS, Block, Held
from influx.engines.layers import Flat, LayerRows, Weighted
from influx.engines.rows import Rows
from influx.errors import IncompatibleError, NumericalError

RELATIVE_DAMPING = 0.1  # of a layer's mean eigenvalue: a common heuristic without theory behind it
SINGULAR = 1e-12  # smallest eigenvalue over largest below which a layer cannot be inverted


@dataclass(frozen=True)
class Part:
    """One layer: names of its parameters, its columns among all p numbers, its block and eigenvalues with damping.

    ``damping`` is δ of this layer; ``divisor`` has the shape of the block's eigenvalues and holds decay as well.
    """

    names: tuple[str, ...]
    columns: slice
    block: Block
    damping: float
    divisor: Tensor


@dataclass
class Layerwise:
    """H_r + δI of every layer, diagonal in the basis of its block, with δ a number for each layer."""

    parts: list[Part]
    report: dict[str, float | str]

    def solve(self, rhs: Tensor) -> Tensor:
        """``(k, p)`` solutions for right-hand sides ``(k, p)``."""
        return self.apply(rhs, torch.reciprocal)

    def apply(self, rhs: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """``(k, p)`` products with a function of the matrix, which gets its eigenvalues layer by layer."""
        found = []
        for part in self.parts:
            turned = part.block.into(rhs[:, part.columns])
            found.append(part.block.back(turned * function(part.divisor)))
        return torch.cat(found, 1)

    def quadratic(self, rows: Tensor) -> Tensor:
        """``(k,)`` values gᵀ (H_r + δI)⁻¹ g of rows ``(k, p)``."""
        total = rows.new_zeros(len(rows))
        for part in self.parts:
            total += (part.block.into(rows[:, part.columns]).square() / part.divisor).flatten(1).sum(1)
        return total

    def quadratic_of(self, rows: Rows) -> Tensor:
        """The same from gradients that are not written out: far fewer operations for wide layers."""
        return self.weighed(rows, torch.reciprocal)

    def weighed(self, rows: Rows, function: Callable[[Tensor], Tensor]) -> Tensor:
        """``(b,)`` quadratic forms of gradients with a function of the matrix."""
        pairs = zip(self.parts, alike(rows, len(self.parts)), strict=True)
        found = [part.block.weighed(layer, function(part.divisor)) for part, layer in pairs]
        return torch.stack(found).sum(0)

    def held(self, blocks: Iterable[Rows]) -> list[Held]:
        """What gradients are to be multiplied with, layer by layer, from all blocks of other gradients together."""
        weights = [part.divisor.reciprocal() for part in self.parts]
        made: list[list[tuple[Tensor, ...]]] = [[] for _ in self.parts]
        for rows in blocks:
            layers = alike(rows, len(self.parts))
            for into, part, layer, weight in zip(made, self.parts, layers, weights, strict=True):
                into.append(part.block.hold(layer, weight))
        found = []
        for weight in weights:
            pieces = made.pop(0)  # one layer after the other, since both need memory
            found.append(Held(weight, tuple(map(torch.cat, zip(*pieces, strict=True)))))
        return found

    @property
    def damping(self) -> Tensor:
        """``(p,)`` δ of every parameter."""
        like = self.parts[0].divisor
        sizes = [part.columns.stop - part.columns.start for part in self.parts]
        return torch.cat([like.new_full((s,), part.damping) for s, part in zip(sizes, self.parts, strict=True)])


def layers_of(rows: Rows, parameters: Mapping[str, Tensor]) -> Iterator[tuple[LayerRows, tuple[str, ...], slice]]:
    """Layers with the names of their parameters and their columns among all p numbers."""
    named, start = iter(parameters.items()), 0
    for layer in rows.layers:
        count = 1
        if isinstance(layer, Weighted):
            count += layer.bias
        elif isinstance(layer, Flat) and layer.sizes:
            count = len(layer.sizes)
        own = [next(named) for _ in range(count)]
        stop = start + sum(p.numel() for _, p in own)
        yield layer, tuple(name for name, _ in own), slice(start, stop)
        start = stop


def alike(rows: Rows, count: int) -> list[LayerRows]:
    """Layers of a block, of which there must be as many as in the first.

    Raises:
        IncompatibleError: the model treats these instances in another way.
    """
    if len(rows.layers) != count:
        raise IncompatibleError(OTHER_WAYS)
    return rows.layers


def decayed(block: Block, decay: Tensor) -> Tensor:
    """The eigenvalues with weight decay ``decay`` (q,), which no rotation changes where it is the same everywhere."""
    alike = bool((decay == decay[0]).all())
    return block.eigenvalues + (decay[0] if alike else block.diagonal(decay))


def damped(names: tuple[str, ...], columns: slice, block: Block, decay: Tensor, damping: float | None) -> Part:
    """A layer with weight decay ``decay`` (q,) and damping; None is a tenth of its mean eigenvalue.

    Raises:
        NumericalError: the layer's curvature with both is singular.
    """
    values = decayed(block, decay)
    mean, largest = float(values.mean()), float(values.max())
    chosen = RELATIVE_DAMPING * mean if damping is None else damping
    divisor = values + chosen
    where = " and ".join(names)
    if not torch.isfinite(divisor).all():
        raise NumericalError(f"the curvature of {where} is not finite; lower optimizer.lr or check the data")
    if largest == 0 and chosen == 0:
        raise NumericalError(
            f"gradients of {where} are zero for every training instance, and so is their curvature; set "
            "estimator.damping=0.001 or train with optimizer.weight_decay above 0"
        )
    if float(divisor.min()) <= SINGULAR * float(divisor.max()):
        raise NumericalError(
            f"the curvature of {where} is singular with estimator.damping={chosen:.3g}; set estimator.damping="
            f"{max(RELATIVE_DAMPING * mean, 1e-6 * largest):.2g} or leave it to estimator.damping=null"
        )
    return Part(names, columns, block, chosen, divisor)
