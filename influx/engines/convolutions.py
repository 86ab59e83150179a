"""Per-instance weight gradients of convolutions in one, two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from influx.engines.factors import Dense, Side

PIECE_BYTES = {"cpu": 6 << 20, "cuda": 256 << 20}  # patches at a time: on a processor, about its second-level cache
CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CHANNELS = 16  # of an input, below which whole patches are faster than rows of them


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input, one number per dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def margins(self) -> list[int]:
        """What ``F.pad`` takes: before and after, the last dimension first."""
        return [side for size in reversed(self.padding) for side in (size, size)]

    def patches(self, inputs: Tensor) -> Tensor:
        """What each position sees: a view ``(b, channels, *kernel, *positions)`` of ``inputs`` (b, channels, ...)."""
        if any(self.padding):
            inputs = F.pad(inputs, self.margins)
        b, channels, *sizes = inputs.shape
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        out = [(size - span) // step + 1 for size, span, step in zip(sizes, spans, self.stride, strict=True)]
        first, second, *strides = inputs.stride()
        inner = [s * d for s, d in zip(strides, self.dilation, strict=True)]
        outer = [s * step for s, step in zip(strides, self.stride, strict=True)]
        return inputs.as_strided((b, channels, *self.kernel, *out), (first, second, *inner, *outer))


@dataclass(frozen=True)
class Convolved:
    """One use of a weight ``(d_out, channels / groups, *kernel)``.

    ``inputs`` (b k, channels, ...) and ``gradients`` (b k, d_out, ...) hold k images per instance. ``biases`` makes the
    (b, d_out) gradients of the bias; a transposed convolution swaps the roles of the other two.
    """

    geometry: Geometry
    instances: int
    inputs: Tensor
    gradients: Tensor
    biases: Callable[[], Tensor]

    def sides(self) -> tuple[Side, Side]:
        """Output gradients and patches, ``(b, k L, ...)``, when channels are not in groups."""
        return self._sides

    def through(self, rows: Tensor | None, columns: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sides times matrices: patches by a convolution with these as filters, so that none is copied.

        On a card, where convolutions round more than products of matrices, patches are.
        """
        left = self._joined(self.gradients.flatten(2))
        left = left if rows is None else left @ rows
        if columns is None or self.inputs.device.type != "cpu":
            patches = self.sides()[1]
            assert isinstance(patches, Dense)
            return left, patches.vectors if columns is None else patches.vectors @ columns
        geometry = self.geometry
        filters = columns.T.reshape(-1, self.inputs.shape[1], *geometry.kernel)
        convolve = CONVOLVE[len(geometry.kernel)]
        seen = convolve(self.inputs, filters, None, geometry.stride, geometry.padding, geometry.dilation)
        return left, self._joined(seen.flatten(2))

    @property
    def numel(self) -> int:
        """Numbers in the weight."""
        kernel = math.prod(self.geometry.kernel)
        return self.gradients.shape[1] * self.inputs.shape[1] // self.geometry.groups * kernel

    @property
    def inputs_side(self) -> int:
        """Where the inputs are."""
        return 1

    @cached_property
    def extent(self) -> tuple[int, int] | None:
        """Positions per instance, multiply-adds per pair of them."""
        if self.geometry.groups > 1:
            return None
        images = len(self.inputs) // self.instances
        width = self.gradients.shape[1] + self.inputs.shape[1] * math.prod(self.geometry.kernel)
        return images * math.prod(self.gradients.shape[2:]), width

    @cached_property
    def _sides(self) -> tuple[Side, Side]:
        patches = self.geometry.patches(self.inputs).flatten(1, 1 + len(self.geometry.kernel)).flatten(2)
        return Dense(self._joined(self.gradients.flatten(2))), Dense(self._joined(patches))

    def by_pixel(self) -> tuple[Dense, Dense]:
        """The same, channels of a pixel of a patch together: copied in longer stretches."""
        dims, geometry = len(self.geometry.kernel), self.geometry
        padded = F.pad(self.inputs.movedim(1, -1), (0, 0, *geometry.margins)).contiguous().movedim(-1, 1)
        patches = replace(geometry, padding=(0,) * dims).patches(padded)
        patches = patches.permute(0, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims), 1)
        columns = patches.reshape(self.instances, -1, self.inputs.shape[1] * math.prod(geometry.kernel))
        return Dense(self.gradients.movedim(1, -1).reshape(self.instances, -1, self.gradients.shape[1])), Dense(columns)

    @property
    def pixels(self) -> Tensor:
        """Which of the weight's columns each of those columns is."""
        channels, pixels = self.inputs.shape[1], math.prod(self.geometry.kernel)
        return torch.arange(channels * pixels, device=self.inputs.device).view(channels, pixels).T.flatten()

    def _joined(self, images: Tensor) -> Tensor:
        """``(b, k L, d)`` from ``(b k, d, L)``."""
        return images.transpose(1, 2).reshape(self.instances, -1, images.shape[1])

    def written(self, into: list[Tensor] | None = None) -> list[Tensor]:
        """Gradients ``(images, rows, columns)``, summed over the images of an instance: see the two orders below."""
        kept = into if len(self.inputs) == self.instances else None
        made = self._by_patches(kept) if self._planar else self._by_rows(kept)
        if len(self.inputs) == self.instances:
            return [rows.flatten(1) for rows in made]
        return [rows.view(self.instances, -1, rows[0].numel()).sum(1) for rows in made]

    def ordered(self, written: list[Tensor]) -> Tensor:
        """``(b, p)``, in the order of the weight."""
        b, out, kernel = self.instances, self.gradients.shape[1], self.geometry.kernel
        if self._planar:
            groups = self.geometry.groups
            return written[0].view(b, groups, -1, out // groups).transpose(2, 3).flatten(1)
        stacked = torch.stack(written, 1).view(b, kernel[0], out, kernel[1], -1)
        return stacked.permute(0, 2, 4, 1, 3).flatten(1)

    @property
    def _planar(self) -> bool:
        """Whether patches are made channel by channel: for few of them, and whatever is not two-dimensional."""
        return len(self.geometry.kernel) != 2 or self.geometry.groups > 1 or self.inputs.shape[1] < CHANNELS

    def _pieces(self, patches: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some inputs and output gradients at a time, given the numbers in an image's patches."""
        size = max(PIECE_BYTES.get(self.inputs.device.type, 1 << 62) // (self.inputs.element_size() * patches), 1)
        for start in range(0, len(self.inputs), size):
            part = slice(start, start + size)
            yield part, self.inputs[part], self.gradients[part]

    def _by_patches(self, into: list[Tensor] | None) -> list[Tensor]:
        """One block ``(images, groups, channels x kernel, d_out)``: products of whole patches."""
        images, groups, out = len(self.inputs), self.geometry.groups, self.gradients.shape[1]
        width = self.inputs.shape[1] * math.prod(self.geometry.kernel)
        shape = (images, groups, width // groups, out // groups)
        found = into[0].view(shape) if into else self.inputs.new_empty(shape)
        length = math.prod(self.gradients.shape[2:])
        for part, inputs, gradients in self._pieces(width * length):
            patches = self.geometry.patches(inputs).reshape(len(inputs) * groups, -1, length)
            outputs = gradients.reshape(len(inputs) * groups, -1, length).transpose(1, 2)
            torch.bmm(patches, outputs, out=found[part].flatten(0, 1))
        return [found]

    def _by_rows(self, into: list[Tensor] | None) -> list[Tensor]:
        """A block ``(images, d_out, kernel width x channels)`` per row of the kernel.

        Inputs are copied once per column of the kernel only: what its rows see are parts of that.
        """
        geometry, images, out = self.geometry, len(self.inputs), self.gradients.shape[1]
        (rows, columns), (down, right), (far, wide) = geometry.kernel, geometry.stride, geometry.dilation
        channels, (high, across) = self.inputs.shape[1], self.gradients.shape[2:]
        whole = (rows, images, out, columns * channels)
        found = [block.view(whole[1:]) for block in into[:rows]] if into else list(self.inputs.new_empty(whole))
        tall = self.inputs.shape[2] + 2 * geometry.padding[0]
        for part, inputs, gradients in self._pieces(tall * across * columns * channels):
            padded = F.pad(inputs.permute(0, 2, 3, 1), (0, 0, *geometry.margins)).contiguous()
            image, row, step, _ = padded.stride()
            shape = (len(inputs), tall, across, columns, channels)
            seen = padded.as_strided(shape, (image, row, right * step, wide * step, 1)).reshape(*shape[:3], -1)
            outputs = gradients.permute(0, 2, 3, 1).reshape(len(inputs), high * across, out).transpose(1, 2)
            for number in range(rows):
                first = number * far
                own = seen[:, first : first + (high - 1) * down + 1 : down].reshape(len(inputs), high * across, -1)
                torch.bmm(outputs, own, out=found[number][part])
        return found

    def summed(self) -> Tensor:
        """Gradients of the bias."""
        return self.biases()
