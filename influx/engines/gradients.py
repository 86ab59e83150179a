"""Per-instance gradients of the risk: the only place that computes them.

One forward pass and one backward pass per block give the inputs and output gradients of every use of a parameter;
dot products and norms follow from these factors (see ``recorder``, ``uses``, ``layers``). Parameters that are used in
other ways go through ``vmap(grad)``, or one backward pass per instance where that fails, and they alone (see
``autograd``). Gradients are those of the risk without regulariser, in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn

from influx.engines.autograd import Free, FreePart, exactly, gradients, one_by_one
from influx.engines.columns import spared
from influx.engines.features import head_of
from influx.engines.passes import TOGETHER, Collected
from influx.engines.probes import agree, check_own_memory, drawing_nothing, in_float64, mix, noise_like
from influx.engines.recorder import Recorder
from influx.engines.rows import Rows as Rows
from influx.engines.rows import factored, layers
from influx.engines.uses import HANDLERS
from influx.errors import IncompatibleError, NumericalError
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.loading import loaded
from influx.learners.torch.tasks import Task
from influx.problem import Checkpoint, Split

Select = Literal["all", "head"]
ToTensors = Callable[[Split], tuple[Tensor, Tensor]]
OutputGradient = Callable[[Tensor, Tensor], Tensor]  # outputs, y -> gradient with respect to outputs
BLOCK_BYTES = 256 << 20  # factors and written-out gradients of one block of instances
ACCELERATED_BYTES = 4 << 30  # the same on an accelerator, which is idle during small blocks
CACHED_BYTES = 62 << 20  # the same on a processor: freed memory up to this is used again, without page faults
WRITTEN_BYTES = 64 << 20  # gradients written out with what is computed from them
HELD = 8  # blocks of the side that is held while the other is computed block by block


class GradientsAt:
    """Per-instance gradients at one parameter vector, with respect to the selected parameters."""

    def __init__(
        self, module: nn.Module, task: Task, select: Select, tensors: ToTensors, instance: Tensor | None = None
    ):
        """``module`` is in eval mode; ``tensors`` turns a split into inputs and targets.

        ``instance`` (1, ...) shows which layer is the head (see ``head_of``); without a head nothing asks for it.
        """
        self.module, self.task, self.tensors = module, task, tensors
        chosen = module
        if select == "head":
            assert instance is not None
            chosen = head_of(module, instance)[1]
        selected = {id(p) for p in chosen.parameters()}
        self.parameters = {name: p for name, p in module.named_parameters() if id(p) in selected}
        self._settled, self._mapped = False, True
        self._free: frozenset[str] = frozenset()  # parameters whose gradients only autograd knows
        self._measured: tuple[int, int, int] | None = None

    @property
    def size(self) -> int:
        """Number of selected parameters p."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def route(self) -> dict[str, Literal["factors", "vmap", "loop"]]:
        """How each parameter's gradients are computed, once some have been."""
        free: Literal["vmap", "loop"] = "vmap" if self._mapped else "loop"
        return {name: free if name in self._free else "factors" for name in self.parameters}

    def rows(self, x: Tensor, y: Tensor, output_gradient: OutputGradient | None = None) -> Rows:
        """Gradients of one block; ``output_gradient`` replaces that of the risk (for curvature factors).

        Raises:
            NumericalError: a gradient is not finite.
            IncompatibleError: the module loses instances, is random, or autograd cannot differentiate it.
        """
        return next(self.several(x, y, [output_gradient]))

    def several(self, x: Tensor, y: Tensor, output_gradients: Sequence[OutputGradient | None]) -> Iterator[Rows]:
        """What ``rows`` gives for each of some output gradients, from one forward pass."""
        self._settle(x)
        yield from self._several(x, y, [of or partial(exactly, self.task.output_gradient) for of in output_gradients])

    def _several(self, x: Tensor, y: Tensor, output_gradients: Sequence[OutputGradient]) -> Iterator[Rows]:
        recorder = Recorder(self._wanted, len(x), HANDLERS)
        with torch.enable_grad(), recorder:
            result = self._forward(x)
        uses, edges = recorder.uses, [use.edge for use in recorder.uses]
        names = [n for n, p in self.parameters.items() if n in self._free or id(p) in recorder.free]
        for left, of in zip(range(len(output_gradients) - 1, -1, -1), output_gradients, strict=True):
            seeds = of(result.detach(), y)
            found = gradients(result, edges, seeds, again=left > 0) if uses else []
            pairs = zip(uses, found, strict=True)
            terms = [use.term(seeds.new_zeros(use.shape) if g is None else g.reshape(use.shape)) for use, g in pairs]
            yield Rows(layers(self.parameters, uses, terms, Free(self.module, names, x, seeds, self._mapped)))

    @property
    def _wanted(self) -> frozenset[int]:
        return frozenset(id(p) for name, p in self.parameters.items() if name not in self._free)

    def _forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.module(x)
        if len(result) != len(x) or result.ndim != 2:
            raise IncompatibleError(
                f"the model returned shape {tuple(result.shape)} for {len(x)} instances, expected "
                f"({len(x)}, outputs); change model so that it returns one row per instance"
            )
        return result

    def _mixed(self, x: Tensor) -> Tensor:
        """One by one, of a fixed mix of the outputs: the risk of a fitted instance would agree with anything."""
        return one_by_one(self.module, list(self.parameters.values()), x, mix(self._forward(x), x))

    @torch.no_grad()
    def _settle(self, x: Tensor) -> None:
        """Choose, once, the fastest way that agrees with plain autograd on a few of the instances ``x``.

        Factors miss what the recorder does not see; ``vmap(grad)`` does not know every operation. In float64, where
        rounding decides nothing, unless the module's code insists on its own precision.
        """
        if self._settled or not len(x):
            return
        few = x[: 3 if self.size * 8 * 4 <= BLOCK_BYTES else 1]
        check_own_memory(self.module)
        with drawing_nothing(self.module, x.device), Recorder(frozenset(), len(x), HANDLERS):
            self._forward(x)  # before its parts, to refuse the whole
        try:
            finite = bool(torch.isfinite(self._mixed(few)).all())
        except RuntimeError as error:
            raise IncompatibleError(
                f"autograd cannot differentiate {type(self.module).__name__} ({str(error).splitlines()[0]}); "
                "choose another model or an estimator that needs no gradients (influx list estimators)"
            ) from error
        if not finite:
            raise NumericalError("a gradient is not finite; lower optimizer.lr or check the data")
        try:
            with in_float64(self.module):
                self._choose(few.double() if few.is_floating_point() else few, 1e-6)
            next(self._several(few, few, [mix])).flat()  # other precisions have other kernels
        except (RuntimeError, TypeError):
            self._choose(few, 0.05)
        self._settled, self._measured = True, None

    def settle_as(self, other: GradientsAt) -> None:
        """Compute in the way that was chosen for another checkpoint of the same net."""
        if other._settled:
            self._settled, self._measured, self._mapped, self._free = True, other._measured, other._mapped, other._free

    def _choose(self, few: Tensor, tolerance: float) -> None:
        """Leave to autograd what the recorder does not cover or gets wrong; then see whether vmap gets that right."""
        self._free, self._mapped = frozenset(), True
        expected = self._mixed(few)
        more, of_more = few[:1], expected[:1]  # factors of a batch of one may be right by chance
        with suppress(RuntimeError, ValueError, IndexError):  # the module may refuse what is no data
            noise = noise_like(few, self.module)
            of_noise = self._mixed(noise)
            if torch.isfinite(of_noise).all():
                more, of_more = noise, of_noise
        probes, expected = torch.cat([few, more]), torch.cat([expected, of_more])
        self._free = self._wrong(probes, expected, tolerance, False)
        self._mapped = not self._wrong(probes, expected, tolerance, True)

    def _wrong(self, x: Tensor, expected: Tensor, tolerance: float, free: bool) -> frozenset[str]:
        """Names of the parameters that are free or, by factors, wrong; or those of ``free`` ones that are wrong."""
        wrong, largest = set(), expected.norm(dim=1).max()
        pieces = expected.split([p.numel() for p in self.parameters.values()], 1)
        try:
            parts = next(self._several(x, x, [mix])).tensors()
            for name, part, piece in zip(self.parameters, parts, pieces, strict=True):
                if isinstance(part, FreePart) is not free:
                    wrong |= set() if free else {name}
                elif not agree(part.flat(), piece, largest, tolerance):
                    wrong.add(name)
        except RuntimeError:
            return frozenset(self.parameters)
        return frozenset(wrong)

    def block_size(self, split: Split) -> int:
        """Instances per block so that factors and written-out gradients stay within ``BLOCK_BYTES``."""
        return self._fitting(split, min(BLOCK_BYTES, CACHED_BYTES) if self._on_processor else ACCELERATED_BYTES)

    def held_size(self, split: Split) -> int:
        """Instances per block of the side that is held."""
        return min(HELD * self._fitting(split, BLOCK_BYTES if self._on_processor else ACCELERATED_BYTES), 4096)

    def together(self, split: Split) -> int:
        """Instances whose gradients are written out before they are multiplied: a number of blocks."""
        block, element = self.block_size(split), next(iter(self.parameters.values())).element_size()
        if not self._on_processor:
            return block
        fitting = min(TOGETHER, CACHED_BYTES // max(element * self.numbers(split)[1], 1))
        return max(fitting // block, 1) * block

    @property
    def _on_processor(self) -> bool:
        return next(iter(self.parameters.values())).device.type == "cpu"

    def _fitting(self, split: Split, limit: int) -> int:
        self._settle(self.tensors(split.take(slice(0, 3)))[0])
        element = next(iter(self.parameters.values())).element_size()
        return int(min(max(limit // (element * sum(self.numbers(split)[:2])), 1), 4096))

    def activations(self, split: Split) -> int:
        """Numbers per instance that a forward and backward pass keeps."""
        return self.numbers(split)[0]

    def numbers(self, split: Split) -> tuple[int, int, int]:
        """Per instance: what passes keep; gradients written out when many are on both sides, and for ``columns``."""
        if self._measured is None:
            x, _ = self.tensors(split.take(slice(0, 1)))
            recorder = Recorder(self._wanted, 1, HANDLERS, count=True)
            with torch.enable_grad(), recorder:
                result = self._forward(x)
            terms = [use.term(result.new_zeros(use.shape)) for use in recorder.uses]
            kept = 2 * recorder.numbers + sum(use.shape.numel() for use in recorder.uses) + recorder.inputs
            names = [n for n, p in self.parameters.items() if n in self._free or id(p) in recorder.free]
            made = layers(self.parameters, recorder.uses, terms, Free(self.module, names, x, result, self._mapped))
            self._measured = max(kept, 1), self.size - factored(made), self.size - spared(made)
        return self._measured

    def blocks(self, split: Split, size: int | None = None) -> Iterator[tuple[slice, Rows]]:
        """Gradients of a split, block by block."""
        for part, (x, y) in loaded(split, size or self.block_size(split), self.tensors):
            yield part, self.rows(x, y)

    def written(self, split: Split, beside: int = 0) -> Iterator[tuple[slice, Rows]]:
        """The same in blocks that also fit when written out in float64 with ``beside`` numbers more per instance."""
        fitting = WRITTEN_BYTES // (8 * (self.size + beside))
        return self.blocks(split, max(1, min(self.block_size(split), fitting)))

    def squares(self, split: Split) -> Tensor:
        """``(n,)`` squared gradient norms, float64."""
        return torch.cat([rows.squares().double() for _, rows in self.blocks(split)])

    def dots(self, left: Split, right: Split) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
        """Dot products block by block: row slice, column slice, ``(b, m)`` products, squares of rows and columns.

        The right side is computed once; the left side once per block of the right, which is as wide as fits.
        """
        for columns, theirs in self.blocks(right, self.held_size(right)):
            right_squares = theirs.squares()
            collected, block = Collected(theirs, len(right_squares), self.together(left)), self.block_size(left)
            for part, products, squares in collected.across(self.blocks(left), len(left), block):
                yield part, columns, products, squares, right_squares

    def products(self, left: Split, right: Split) -> Iterator[tuple[slice, slice, Tensor]]:
        """``dots`` without norms. Few columns need no left gradient written out (see ``Free.prefers_forward``)."""
        for columns, theirs in self.blocks(right, self.held_size(right)):
            for part, mine in self.blocks(left):
                yield part, columns, mine.dot(theirs)


@dataclass(frozen=True)
class Gradients:
    """Per-instance gradients of one trained problem at any checkpoint."""

    fitted: TorchFitted
    train: Split
    test: Split
    _first: dict[tuple[Select, torch.dtype], GradientsAt] = field(default_factory=dict)

    @cached_property
    def exact(self) -> GradientsAt:
        """Those at the final parameters in float64; made once, so nobody may move the module's parameters."""
        return self.at(self.fitted.checkpoints[-1], dtype=torch.float64)

    def onward(self, at: GradientsAt, checkpoint: Checkpoint) -> GradientsAt:
        """The same at another checkpoint, which its module moves to."""
        self.fitted.model(checkpoint.step, at.module)
        return at

    @torch.no_grad()
    def moves(self, at: GradientsAt, fresh: GradientsAt) -> bool:
        """Whether a module that moved to a checkpoint answers as a fresh one: some keep what no checkpoint has."""
        x, _ = at.tensors(self.train.take(slice(0, 3)))
        return torch.equal(at.module(x), fresh.module(x))

    def at(self, checkpoint: Checkpoint, select: Select = "all", dtype: torch.dtype | None = None) -> GradientsAt:
        """Gradients at a checkpoint with respect to all parameters or those of the last linear layer."""
        return self.of(self.fitted.model(checkpoint.step), select, dtype)

    def of(self, module: nn.Module, select: Select = "all", dtype: torch.dtype | None = None) -> GradientsAt:
        """The same for a module in eval mode; ``dtype`` converts it in place, and images are laid out for speed."""
        if dtype is not None:
            module = module.to(dtype)
        wanted = dtype or self.fitted.recipe.dtype
        # on a processor convolutions and pooling of images are faster with the channels of a pixel together
        images = self.fitted.device.type == "cpu" and any(isinstance(m, nn.Conv2d) for m in module.modules())
        if images:
            module = module.to(memory_format=torch.channels_last)

        def tensors(split: Split) -> tuple[Tensor, Tensor]:
            x, y = self.fitted.tensors(split)
            x, y = (t.to(wanted) if t.is_floating_point() else t for t in (x, y))
            return (x.contiguous(memory_format=torch.channels_last) if images and x.ndim == 4 else x), y

        made = GradientsAt(module, self.fitted.task, select, tensors, tensors(self.train.take(slice(0, 1)))[0])
        made.settle_as(self._first.setdefault((select, wanted), made))
        return made
