"""The gradients of a block of instances with respect to all selected parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from influx.engines.autograd import Free, FreePart
from influx.engines.factors import Term, merged
from influx.engines.layers import Flat, LayerRows, Weighted
from influx.engines.recorder import Use
from influx.learners.torch.costs import MANY


@dataclass(frozen=True)
class Rows:
    """Gradients of a block of instances, in the order of the selected parameters, one or two to a layer."""

    layers: list[LayerRows]

    def dot(self, other: Rows) -> Tensor:
        """``(b, m)`` dot products over all layers."""
        mine, theirs = self.layers, other.layers
        if len(mine) != len(theirs):  # a weight and its bias are apart in one of the blocks
            mine, theirs = self.tensors(), other.tensors()
        forward = self._along(theirs)
        pairs = zip(mine, theirs, strict=True)
        parts = [a.dot(b) for a, b in pairs if forward is None or not isinstance(a, FreePart)]
        total = parts[0] if forward is None else forward
        for part in parts[1:] if forward is None else parts:
            total += part
        return total

    def _along(self, theirs: list[LayerRows]) -> Tensor | None:
        """Products of free parameters' gradients in forward mode, where that is cheaper than to write mine out."""
        free = next((layer.whole for layer in self.layers if isinstance(layer, FreePart)), None)
        others = [layer for layer in theirs if isinstance(layer, FreePart)]
        if free is None or len(others) < len(free.names) or not free.prefers_forward(len(others[0].whole.x)):
            return None
        return free.along(others[0].whole.written)

    def without(self, numbers: list[int]) -> Rows:
        """All layers but these."""
        return Rows([layer for number, layer in enumerate(self.layers) if number not in numbers])

    def squares(self) -> Tensor:
        """``(b,)`` squared norms."""
        return torch.stack([layer.squares() for layer in self.layers]).sum(0)

    def tensors(self) -> list[LayerRows]:
        """The gradients parameter by parameter, in the order of the selected parameters."""
        return [part for layer in self.layers for part in layer.tensors()]

    def flat(self) -> Tensor:
        """``(b, p)`` gradients in the order of the selected parameters."""
        return torch.cat([layer.flat() for layer in self.layers], 1)


def layers(parameters: dict[str, nn.Parameter], uses: list[Use], terms: list[Term], free: Free) -> list[LayerRows]:
    """Gradients by parameter; a weight with the bias that always goes along and comes next is one layer."""
    numbers = range(len(uses))
    made: list[LayerRows] = []
    named, joined = list(parameters.items()), None
    for (name, p), (_, following) in zip(named, [*named[1:], ("", None)], strict=True):
        weights = [i for i in numbers if uses[i].weight == id(p)]
        biases = [i for i in numbers if uses[i].bias == id(p)]
        if name in free.names:
            made.append(FreePart(free, name))
        elif joined is p:
            joined = None
        elif weights and not biases:
            own = merged([terms[i] for i in weights])
            whole = [i for i in numbers if id(following) in (uses[i].weight, uses[i].bias)] == weights
            together = whole and {uses[i].bias for i in weights} == {id(following)}
            together = together and len({term.inputs_side for term in own}) == 1
            joined = following if together else None
            made.append(Weighted(len(free.x), own, together))
        else:
            parts = [terms[i].ordered(terms[i].written()) for i in weights] + [terms[i].summed() for i in biases]
            made.append(Flat(sum(parts[1:], parts[0]) if parts else p.new_zeros(len(free.x), p.numel())))
    return made


def factored(made: list[LayerRows]) -> int:
    """Numbers in the weights whose products need no gradient written out when there are many on both sides."""
    weights = [layer for layer in made if isinstance(layer, Weighted) and layer.way(MANY, MANY) == "factors"]
    return sum(layer.terms[0].numel for layer in weights)
