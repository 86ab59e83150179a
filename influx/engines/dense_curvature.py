"""Curvature matrices of plain networks, by products of whole blocks of instances.

With z_l = W_l a_{l-1} + b_l and a_l = φ(z_l), the risk's second derivative between two weights is a sum over
instances of products of four numbers, two of them inputs a and two belonging to units. Summed over instances those
are products of matrices, 2 n p² operations in all and for equal layers a quarter of it, whatever the number of
outputs; going output by output (or column by column) would take that many times as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from influx.engines.products import affine, derivatives
from influx.learners.torch.tasks import Task

BLOCK_BYTES = 64 << 20  # of the products that are multiplied at a time


@dataclass
class DenseCurvature:
    """Adds up the curvature of instances, block by block; ``layers`` and ``functions`` alternate."""

    layers: list[nn.Linear]
    functions: list[nn.Module]
    task: Task
    gauss_newton: bool
    _sums: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # by layers: (units · units, inputs · inputs)
    _bent: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # what bends the second of two layers' inputs

    def block_size(self) -> int:
        """Instances to add at a time."""
        widths = [layer.in_features + 1 for layer in self.layers] + [layer.out_features for layer in self.layers]
        return max(1, BLOCK_BYTES // (8 * max(widths) ** 2))

    @torch.no_grad()
    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the instances ``x`` (b, ...), ``y`` (b,)."""
        inputs, slopes, bends = [x.flatten(1)], [], []
        for layer, function in zip(self.layers[:-1], self.functions, strict=True):
            value, slope, bend = derivatives(function, affine(layer, inputs[-1].t()).t())
            inputs.append(value)
            slopes.append(slope)
            bends.append(bend)
        outputs = affine(self.layers[-1], inputs[-1].t()).t()
        deltas, back = [self.task.output_gradient(outputs, y)], []
        for layer, slope in zip(self.layers[:0:-1], reversed(slopes), strict=True):
            back.append(deltas[-1] @ layer.weight)
            deltas.append(back[-1] * slope)
        deltas.reverse()
        back.reverse()
        augmented = [self._with_ones(a, layer) for a, layer in zip(inputs, self.layers, strict=True)]
        for first in range(len(self.layers)):
            tangents, curved = self._from(first, outputs, slopes, bends, back)
            for second in range(first, len(self.layers)):
                self._add_pair(first, second, curved[second - first], augmented)
                if second > first and not self.gauss_newton:
                    moved = tangents[second - 1 - first] * slopes[second - 1]  # (units, b, inputs of second)
                    self._add_bent(first, second, deltas[second], moved, augmented[first])

    def _from(
        self, first: int, outputs: Tensor, slopes: list[Tensor], bends: list[Tensor | None], back: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Derivatives of z_l and of δ_l in the units of layer ``first``, ``(units, b, units of l)`` for l >= first."""
        units, count = self.layers[first].out_features, len(self.layers)
        identity = torch.eye(units, dtype=outputs.dtype, device=outputs.device)
        tangents = [identity.unsqueeze(1).expand(-1, len(outputs), -1)]
        for layer in range(first, count - 1):
            tangents.append((tangents[-1] * slopes[layer]) @ self.layers[layer + 1].weight.t())
        curved = [self.task.curved(outputs, tangents[-1])]
        for layer in range(count - 2, first - 1, -1):
            below = (curved[-1] @ self.layers[layer + 1].weight) * slopes[layer]
            bend = bends[layer]
            if not self.gauss_newton and bend is not None:
                below += tangents[layer - first] * (bend * back[layer])
            curved.append(below)
        return tangents, curved[::-1]

    def _add_pair(self, first: int, second: int, curved: Tensor, inputs: list[Tensor]) -> None:
        """Σ_i curved_i[e, o] a_i[j] a_i[k], of one layer only for e <= o and j <= k."""
        mine, theirs = inputs[first], inputs[second]
        if first == second:
            e, o = torch.triu_indices(curved.shape[0], curved.shape[2], device=curved.device)
            units, pairs = curved[e, :, o], _products(mine.t().contiguous()).t()
        else:
            units = curved.transpose(1, 2).reshape(-1, len(mine))
            pairs = (mine.unsqueeze(2) * theirs.unsqueeze(1)).flatten(1)
        _accumulate(self._sums, (first, second), units, pairs)

    def _add_bent(self, first: int, second: int, delta: Tensor, moved: Tensor, inputs: Tensor) -> None:
        """Σ_i δ_i[o] a_i[j] ∂a'_i[k]/∂z_i[e]: how the first layer's weights move what the second multiplies."""
        left = (delta.unsqueeze(2) * inputs.unsqueeze(1)).flatten(1).t()  # (o j, b)
        right = moved.permute(1, 0, 2).flatten(1)  # (b, e k)
        _accumulate(self._bent, (first, second), left, right)

    def matrix(self) -> Tensor:
        """``(p, p)`` sum so far, symmetric, in the order of the parameters."""
        sizes = [sum(p.numel() for p in layer.parameters()) for layer in self.layers]
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        h = self.layers[0].weight.new_empty(sum(sizes), sum(sizes))
        for (first, second), found in self._sums.items():
            units, others = self.layers[first].out_features, self.layers[second].out_features
            if first == second:
                part = _unfolded(found, units)
            else:
                part = found.view(units, others, -1, sizes[second] // others)
            block = part.permute(0, 2, 1, 3)  # (e, j, o, k)
            if (first, second) in self._bent:
                width = self.layers[second].in_features
                bent = self._bent[first, second].view(others, -1, units, width)
                block[..., :width] += bent.permute(2, 1, 0, 3)
            rows, columns = slice(starts[first], starts[first] + sizes[first]), slice(starts[second], None)
            target = h[rows, columns][:, : sizes[second]]
            self._place(target, block, first, second)
            if first != second:
                h[starts[second] : starts[second] + sizes[second], rows] = target.t()
        return h

    def _place(self, target: Tensor, block: Tensor, first: int, second: int) -> None:
        """Rows and columns of weights before those of biases, as parameters come."""
        (units, _, others, _), widths = block.shape, [self.layers[first].in_features, self.layers[second].in_features]
        rows, columns = units * widths[0], others * widths[1]
        weights = target[:rows, :columns].unflatten(0, (units, -1)).unflatten(2, (others, -1))
        weights.copy_(block[:, : widths[0], :, : widths[1]])
        if block.shape[1] > widths[0]:
            target[rows:, :columns].unflatten(1, (others, -1)).copy_(block[:, -1, :, : widths[1]])
        if block.shape[3] > widths[1]:
            target[:rows, columns:].unflatten(0, (units, -1)).copy_(block[:, : widths[0], :, -1])
            if block.shape[1] > widths[0]:
                target[rows:, columns:].copy_(block[:, -1, :, -1])

    @staticmethod
    def _with_ones(a: Tensor, layer: nn.Linear) -> Tensor:
        return a if layer.bias is None else torch.cat([a, a.new_ones(len(a), 1)], 1)


def _products(rows: Tensor) -> Tensor:
    """``(d (d + 1) / 2, b)`` products of every two rows j <= k of ``(d, b)``, one j after the other."""
    count, b = rows.shape
    found = rows.new_empty(count * (count + 1) // 2, b)
    start = 0
    for j in range(count):
        torch.mul(rows[j:], rows[j], out=found[start : start + count - j])
        start += count - j
    return found


def _accumulate(sums: dict[tuple[int, int], Tensor], key: tuple[int, int], left: Tensor, right: Tensor) -> None:
    if key in sums:
        sums[key].addmm_(left, right)
    else:
        sums[key] = left @ right


def _unfolded(found: Tensor, units: int) -> Tensor:
    """``(units, units, inputs, inputs)`` of what was kept for e <= o and j <= k."""
    inputs = int((8 * found.shape[1] + 1) ** 0.5 - 1) // 2
    tables = []
    for count in (units, inputs):
        table = torch.empty(count, count, dtype=torch.long, device=found.device)
        a, b = torch.triu_indices(count, count, device=found.device)
        table[a, b] = table[b, a] = torch.arange(len(a), device=found.device)
        tables.append(table)
    return found[:, tables[1]][tables[0]]
