"""Per-instance gradients of the risk: the only place that computes them.

One forward pass and one backward pass per block give every layer's inputs and output gradients; dot products
and norms follow from these factors (see ``layers``). Modules that the factors do not cover go through
``vmap(grad)``, those that this does not cover through one backward pass per instance. Gradients are those of the
risk without regulariser, in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from influx.engines.features import head_of
from influx.engines.layers import Flat, Handler, LayerRows, handler_for, in_float64, mix, noise_like
from influx.errors import IncompatibleError, NumericalError
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.pace import tensors_in
from influx.learners.torch.tasks import Task
from influx.problem import Checkpoint, Split

Select = Literal["all", "head"]
ToTensors = Callable[[Split], tuple[Tensor, Tensor]]
OutputGradient = Callable[[Tensor, Tensor], Tensor]  # outputs, y -> gradient with respect to outputs
BLOCK_BYTES = 256 << 20  # factors and written-out gradients of one block of instances
HELD = 8  # blocks of the side that is held while the other is computed block by block


@dataclass(frozen=True)
class Rows:
    """Gradients of a block of instances, layer by layer."""

    layers: list[LayerRows]

    def dot(self, other: Rows) -> Tensor:
        """``(b, m)`` dot products over all layers."""
        parts = [mine.dot(theirs) for mine, theirs in zip(self.layers, other.layers, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total += part
        return total

    def squares(self) -> Tensor:
        """``(b,)`` squared norms."""
        return torch.stack([layer.squares() for layer in self.layers]).sum(0)

    def tensors(self) -> list[LayerRows]:
        """The gradients parameter by parameter, in the order of the selected parameters."""
        return [part for layer in self.layers for part in layer.tensors()]

    def flat(self) -> Tensor:
        """``(b, p)`` gradients in the order of the selected parameters."""
        return torch.cat([layer.flat() for layer in self.layers], 1)


def _gradients(result: Tensor, wanted: list[Any], seeds: Tensor) -> list[Tensor]:
    """Of Σ result · seeds; zeros for what ``result`` does not depend on.

    By a sum and by hand: ``grad_outputs`` and ``materialize_grads`` would load a symbolic algebra package.
    """
    with torch.enable_grad():
        total = (result * seeds).sum()
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


class GradientsAt:
    """Per-instance gradients at one parameter vector, with respect to the selected parameters."""

    def __init__(
        self, module: nn.Module, task: Task, select: Select, tensors: ToTensors, instance: Tensor | None = None
    ):
        """``module`` is in eval mode; ``tensors`` turns a split into inputs and targets.

        ``instance`` (1, ...) shows which layer is the head (see ``head_of``); without a head nothing asks for it.
        """
        self.module, self.task, self._tensors = module, task, tensors
        owners = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
        if select == "head":
            assert instance is not None
            owners = [head_of(module, instance)[1]]
        self.owners = owners
        selected = {id(p) for m in self.owners for p in m.parameters()}
        self.parameters = {name: p for name, p in module.named_parameters() if id(p) in selected}
        self._settled, self._mapped = False, True

    @property
    def size(self) -> int:
        """Number of selected parameters p."""
        return sum(p.numel() for p in self.parameters.values())

    def rows(self, x: Tensor, y: Tensor, output_gradient: OutputGradient | None = None) -> Rows:
        """Gradients of one block; ``output_gradient`` replaces that of the risk (for curvature factors).

        Raises:
            NumericalError: a gradient is not finite.
            IncompatibleError: the module loses instances, or autograd cannot differentiate it.
        """
        self._settle(x)
        return self._rows(x, y, output_gradient or self._residual)

    def _residual(self, outputs: Tensor, y: Tensor) -> Tensor:
        """In float64, since p - 1 of a fitted instance cancels; then in the model's precision."""
        exact = y.double() if y.is_floating_point() else y
        return self.task.output_gradient(outputs.double(), exact).to(outputs.dtype)

    def _rows(self, x: Tensor, y: Tensor, of: OutputGradient) -> Rows:
        if self._handlers is None:
            return Rows([Flat(self._by_autograd(x, y, of), tuple(p.numel() for p in self.parameters.values()))])
        return self._by_factors(x, y, of, self._handlers)

    @cached_property
    def _handlers(self) -> list[Handler] | None:
        """One handler per owner, or None when some parameter needs autograd (unknown, shared, or factors are wrong)."""
        handlers = [handler_for(m) for m in self.owners]
        names = [id(p) for m in self.owners for p in m.parameters(recurse=False)]
        if None in handlers or len(set(names)) < len(names):
            return None
        return [h for h in handlers if h is not None]

    def _by_factors(self, x: Tensor, y: Tensor, of: OutputGradient, handlers: list[Handler]) -> Rows:
        inputs: dict[nn.Module, Tensor] = {}
        outputs: dict[nn.Module, Tensor] = {}
        odd = False

        def keep(module: nn.Module, args: object, kwargs: object, output: object) -> object:
            nonlocal odd
            given = next(tensors_in((args, kwargs)), None)
            odd = odd or module in outputs or given is None or not isinstance(output, Tensor)
            if given is None or not isinstance(output, Tensor):
                return output
            inputs[module], outputs[module] = given.detach(), output
            return output.clone()  # what follows may change its input in place

        hooks = [m.register_forward_hook(keep, with_kwargs=True) for m in self.owners]
        try:
            with torch.enable_grad():
                result = self._forward(x)
        finally:
            for hook in hooks:
                hook.remove()
        if odd or len(outputs) < len(self.owners):
            self._handlers = None
            return Rows([Flat(self._by_autograd(x, y, of), tuple(p.numel() for p in self.parameters.values()))])
        seeds, wanted = of(result.detach(), y), [outputs[m] for m in self.owners]
        gradients = _gradients(result, wanted, seeds)
        made = zip(self.owners, handlers, gradients, strict=True)
        return Rows([handler(m, inputs[m], g) for m, handler, g in made])

    def _by_autograd(self, x: Tensor, y: Tensor, of: OutputGradient) -> Tensor:
        fixed = {k: v for k, v in self.module.named_parameters() if k not in self.parameters}
        everything = fixed | dict(self.module.named_buffers())
        with torch.no_grad():
            seeds = of(self._forward(x), y)
        if not self._mapped:
            return self._one_by_one(x, seeds)

        def projected(params: dict[str, Tensor], one: Tensor, seed: Tensor) -> Tensor:
            output: Tensor = functional_call(self.module, everything | params, (one[None],))[0]
            return (output * seed).sum()

        selected = {k: v.detach() for k, v in self.parameters.items()}
        with sdpa_kernel(SDPBackend.MATH):  # vmap would run the other kernels of attention one instance at a time
            grads = vmap(grad(projected), in_dims=(None, 0, 0))(selected, x, seeds)
        return torch.cat([grads[name].flatten(1) for name in self.parameters], 1)

    def _one_by_one(self, x: Tensor, seeds: Tensor) -> Tensor:
        """``(b, p)`` by one backward pass per instance: slow, and what all else is held against."""
        recurrent = any(isinstance(m, nn.RNNBase) for m in self.module.modules())
        params, rows = list(self.parameters.values()), []
        # cuDNN has no backward pass for recurrent layers in eval mode
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
            for one, seed in zip(x.split(1), seeds.split(1), strict=True):
                grads = _gradients(self.module(one), params, seed)
                rows.append(torch.cat([g.flatten() for g in grads]))
        return torch.stack(rows)

    def _forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.module(x)
        if len(result) != len(x) or result.ndim != 2:
            raise IncompatibleError(
                f"the model returned shape {tuple(result.shape)} for {len(x)} instances, expected "
                f"({len(x)}, outputs); change model so that it returns one row per instance"
            )
        return result

    def _mixed(self, x: Tensor) -> Tensor:
        """``_one_by_one`` of a fixed mix of the outputs: the risk of a fitted instance would agree with anything."""
        return self._one_by_one(x, mix(self._forward(x), x))

    @torch.no_grad()
    def _settle(self, x: Tensor) -> None:
        """Choose, once, the fastest way that agrees with plain autograd on a few of the instances ``x``.

        Factors miss what a parameter does outside its own layer; ``vmap(grad)`` does not know every operation. In
        float64, where rounding decides nothing, unless the module's code insists on its own precision.
        """
        if self._settled or not len(x):
            return
        few = x[: 3 if self.size * 8 * 4 <= BLOCK_BYTES else 1]
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
            self._rows(few, few, mix)  # other precisions have other kernels
        except (RuntimeError, TypeError):
            self._choose(few, 0.05)
        self._settled = True

    def settle_as(self, other: GradientsAt) -> None:
        """Compute in the way that was chosen for another checkpoint of the same net."""
        if other._settled:
            self._settled, self._mapped = True, other._mapped
            self._handlers = self._handlers and other._handlers

    def _choose(self, few: Tensor, tolerance: float) -> None:
        expected = self._mixed(few)
        more, of_more = few[:1], expected[:1]  # factors of a batch of one may be right by chance
        with suppress(RuntimeError, ValueError, IndexError):  # the module may refuse what is no data
            noise = noise_like(few, self.module)
            of_noise = self._mixed(noise)
            if torch.isfinite(of_noise).all():
                more, of_more = noise, of_noise
        probes, expected = torch.cat([few, more]), torch.cat([expected, of_more])
        if self._handlers is None or not self._agrees(probes, expected, tolerance):
            self._handlers, self._mapped = None, True
            self._mapped = self._agrees(probes, expected, tolerance)

    def _agrees(self, x: Tensor, expected: Tensor, tolerance: float) -> bool:
        """Parameter by parameter, each as a whole and leaving alone what is zero but for rounding."""
        try:
            found = self._rows(x, x, mix).flat()
        except RuntimeError:
            return False
        if found.shape != expected.shape:
            return False
        floor, sizes = 0.01 * expected.norm(dim=1).max(), [p.numel() for p in self.parameters.values()]
        pairs = zip(found.split(sizes, 1), expected.split(sizes, 1), strict=True)
        return all(bool(((f - e).norm(dim=1) <= tolerance * (e.norm(dim=1) + floor)).all()) for f, e in pairs)

    def block_size(self, split: Split) -> int:
        """Instances per block so that factors and written-out gradients stay within ``BLOCK_BYTES``."""
        self._settle(self._tensors(split.take(slice(0, 3)))[0])
        element = next(iter(self.parameters.values())).element_size()
        written = 0 if self._handlers and all(isinstance(m, nn.Linear) for m in self.owners) else self.size
        numbers = written + self.activations(split)
        return int(min(max(BLOCK_BYTES // (element * numbers), 1), 4096))

    def activations(self, split: Split) -> int:
        """Numbers per instance that a forward and backward pass keeps."""
        total = 0

        def count(module: nn.Module, args: object, kwargs: object, output: object) -> None:
            nonlocal total
            total += 3 * sum(t.numel() for t in tensors_in((args, kwargs, output)))

        hooks = [m.register_forward_hook(count, with_kwargs=True) for m in self.owners]
        try:
            with torch.no_grad():
                self._forward(self._tensors(split.take(slice(0, 1)))[0])
        finally:
            for hook in hooks:
                hook.remove()
        return max(total, 1)

    def blocks(self, split: Split, size: int | None = None) -> Iterator[tuple[slice, Rows]]:
        """Gradients of a split, block by block."""
        step = size or self.block_size(split)
        for start in range(0, len(split), step):
            part = slice(start, min(start + step, len(split)))
            yield part, self.rows(*self._tensors(split.take(part)))

    def squares(self, split: Split) -> Tensor:
        """``(n,)`` squared gradient norms, float64."""
        return torch.cat([rows.squares().double() for _, rows in self.blocks(split)])

    def dots(self, left: Split, right: Split) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
        """Dot products block by block: row slice, column slice, ``(b, m)`` products, squares of rows and columns.

        The right side is computed once; the left side once per block of the right, which is as wide as fits.
        """
        for columns, theirs in self.blocks(right, min(HELD * self.block_size(right), 4096)):
            right_squares = theirs.squares()
            for part, mine in self.blocks(left):
                yield part, columns, mine.dot(theirs), mine.squares(), right_squares


@dataclass(frozen=True)
class Gradients:
    """Per-instance gradients of one trained problem at any checkpoint."""

    fitted: TorchFitted
    train: Split
    test: Split
    _first: dict[tuple[Select, torch.dtype], GradientsAt] = field(default_factory=dict)

    def at(self, checkpoint: Checkpoint, select: Select = "all", dtype: torch.dtype | None = None) -> GradientsAt:
        """Gradients at a checkpoint with respect to all parameters or those of the last linear layer."""
        return self.of(self.fitted.model(checkpoint.step), select, dtype)

    def of(self, module: nn.Module, select: Select = "all", dtype: torch.dtype | None = None) -> GradientsAt:
        """The same for a module in eval mode; ``dtype`` converts it in place."""
        if dtype is not None:
            module = module.to(dtype)
        wanted = dtype or self.fitted.recipe.x.dtype

        def tensors(split: Split) -> tuple[Tensor, Tensor]:
            x, y = self.fitted.tensors(split)
            return (x.to(wanted) if x.is_floating_point() else x), (y.to(wanted) if y.is_floating_point() else y)

        instance, _ = tensors(self.train.take(slice(0, 1)))
        made = GradientsAt(module, self.fitted.task, select, tensors, instance)
        made.settle_as(self._first.setdefault((select, wanted), made))
        return made
