"""Per-instance gradients of the risk: the only place that computes them.

One forward pass and one backward pass per block give every layer's inputs and output gradients; dot products
and norms follow from these factors (see ``layers``). Modules that the factors do not cover go through
``vmap(grad)``. Gradients are those of the risk without regulariser, in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influx.engines.layers import Flat, Handler, LayerRows, handler_for
from influx.errors import IncompatibleError, InfluxError, NumericalError
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.tasks import Task
from influx.problem import Checkpoint, Split

Select = Literal["all", "head"]
ToTensors = Callable[[Split], tuple[Tensor, Tensor]]
OutputGradient = Callable[[Tensor, Tensor], Tensor]  # outputs, y -> gradient with respect to outputs
BLOCK_BYTES = 256 << 20  # factors and written-out gradients of one block of instances


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

    def flat(self) -> Tensor:
        """``(b, p)`` gradients in the order of the selected parameters."""
        return torch.cat([layer.flat() for layer in self.layers], 1)


def head_of(module: nn.Module) -> tuple[str, nn.Linear]:
    """The last layer, which must be linear.

    Raises:
        IncompatibleError: the model does not end in a linear layer.
    """
    last = [(name, m) for name, m in module.named_modules() if next(m.parameters(recurse=False), None) is not None]
    if not last or not isinstance(last[-1][1], nn.Linear):
        raise IncompatibleError("the model must end in a linear layer to use it as a head; choose another model")
    return last[-1][0], last[-1][1]


class GradientsAt:
    """Per-instance gradients at one parameter vector, with respect to the selected parameters."""

    def __init__(
        self, module: nn.Module, task: Task, select: Select, tensors: Callable[[Split], tuple[Tensor, Tensor]]
    ):
        """``module`` is in eval mode; ``tensors`` turns a split into inputs and targets."""
        self.module, self.task, self._tensors = module, task, tensors
        owners = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
        self.owners = [head_of(module)[1]] if select == "head" else owners
        self.parameters = {
            name: p
            for name, p in module.named_parameters()
            if any(p is q for m in self.owners for q in m.parameters(recurse=False))
        }
        self._checked = False

    @property
    def size(self) -> int:
        """Number of selected parameters p."""
        return sum(p.numel() for p in self.parameters.values())

    def rows(self, x: Tensor, y: Tensor, output_gradient: OutputGradient | None = None) -> Rows:
        """Gradients of one block; ``output_gradient`` replaces that of the risk (for curvature factors).

        Raises:
            NumericalError: a gradient is not finite.
        """
        of = output_gradient or self._residual
        if not self._checked:
            self._check(x[:1], y[:1])
        return self._rows(x, y, of)

    def _residual(self, outputs: Tensor, y: Tensor) -> Tensor:
        """In float64, since p - 1 of a fitted instance cancels; then in the model's precision."""
        exact = y.double() if y.is_floating_point() else y
        return self.task.output_gradient(outputs.double(), exact).to(outputs.dtype)

    def _rows(self, x: Tensor, y: Tensor, of: OutputGradient) -> Rows:
        if self._handlers is None:
            return Rows([Flat(self._by_autograd(x, y, of))])
        return self._by_factors(x, y, of, self._handlers)

    @cached_property
    def _handlers(self) -> list[Handler] | None:
        """One handler per owner, or None when some parameter needs autograd (unknown, shared or called twice)."""
        handlers = [handler_for(m) for m in self.owners]
        names = [id(p) for m in self.owners for p in m.parameters(recurse=False)]
        if None in handlers or len(set(names)) < len(names):
            return None
        return [h for h in handlers if h is not None]

    def _by_factors(self, x: Tensor, y: Tensor, of: OutputGradient, handlers: list[Handler]) -> Rows:
        inputs: dict[nn.Module, Tensor] = {}
        outputs: dict[nn.Module, Tensor] = {}
        repeated = False

        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            nonlocal repeated
            repeated = repeated or module in outputs
            inputs[module], outputs[module] = args[0].detach(), output
            return output.clone()  # what follows may change its input in place

        hooks = [m.register_forward_hook(keep) for m in self.owners]
        try:
            with torch.enable_grad():
                result = self.module(x)
                if len(result) != len(x) or result.ndim != 2:
                    raise IncompatibleError(
                        f"the model returned shape {tuple(result.shape)} for {len(x)} instances, expected "
                        f"({len(x)}, outputs); change model so that it returns one row per instance"
                    )
        finally:
            for hook in hooks:
                hook.remove()
        if repeated or len(outputs) < len(self.owners):
            self._handlers = None
            return Rows([Flat(self._by_autograd(x, y, of))])
        seeds = of(result.detach(), y)
        gradients = torch.autograd.grad(result, [outputs[m] for m in self.owners], seeds)
        made = zip(self.owners, handlers, gradients, strict=True)
        return Rows([handler(m, inputs[m], g) for m, handler, g in made])

    def _by_autograd(self, x: Tensor, y: Tensor, of: OutputGradient) -> Tensor:
        fixed = {k: v for k, v in self.module.named_parameters() if k not in self.parameters}
        everything = fixed | dict(self.module.named_buffers())
        seeds = of(self._outputs(x), y)

        def projected(params: dict[str, Tensor], one: Tensor, seed: Tensor) -> Tensor:
            output: Tensor = functional_call(self.module, everything | params, (one[None],))[0]
            return (output * seed).sum()

        selected = {k: v.detach() for k, v in self.parameters.items()}
        grads = vmap(grad(projected), in_dims=(None, 0, 0))(selected, x, seeds)
        return torch.cat([grads[name].flatten(1) for name in self.parameters], 1)

    @torch.no_grad()
    def _outputs(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.module(x)
        return outputs

    def _check(self, x: Tensor, y: Tensor) -> None:
        """Hold one instance's gradient of a fixed mix of its outputs against plain autograd, once.

        Not of its risk: that of a fitted instance is near zero and would agree with anything. Factors miss what a
        parameter does outside its own layer; such a model goes through ``vmap(grad)``.
        """
        self._checked = True

        def of(outputs: Tensor, y: Tensor) -> Tensor:
            return torch.linspace(1, 2, outputs.shape[-1], dtype=outputs.dtype, device=outputs.device).repeat(len(y), 1)

        with torch.enable_grad():
            output = self.module(x)
            params = list(self.parameters.values())
            grads = torch.autograd.grad(output, params, of(output.detach(), y), allow_unused=True)
        pairs = zip(params, grads, strict=True)
        expected = torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in pairs])
        if not torch.isfinite(expected).all():
            raise NumericalError("a gradient is not finite; lower optimizer.lr or check the data")
        allowed = 1e-3 * float(expected.abs().max()) + 1e-6
        error = float((self._rows(x, y, of).flat()[0] - expected).abs().max())
        if error > allowed and self._handlers is not None:
            self._handlers = None
            error = float((self._rows(x, y, of).flat()[0] - expected).abs().max())
        if error > allowed:
            raise InfluxError(f"per-instance gradients disagree with autograd by {error:.2g}, allowed {allowed:.2g}")

    def block_size(self, split: Split) -> int:
        """Instances per block so that factors and written-out gradients stay within ``BLOCK_BYTES``."""
        element = next(iter(self.parameters.values())).element_size()
        written = 0 if self._handlers and all(isinstance(m, nn.Linear) for m in self.owners) else self.size
        numbers = written + self._activations(split)
        return int(min(max(BLOCK_BYTES // (element * numbers), 1), 4096))

    def _activations(self, split: Split) -> int:
        """Numbers per instance that a forward and backward pass keeps."""
        total = 0

        def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal total
            total += 3 * (args[0].numel() + output.numel())

        hooks = [m.register_forward_hook(count) for m in self.owners]
        try:
            self._outputs(self._tensors(split.take(slice(0, 1)))[0])
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
        for columns, theirs in self.blocks(right):
            right_squares = theirs.squares()
            for part, mine in self.blocks(left):
                yield part, columns, mine.dot(theirs), mine.squares(), right_squares


@dataclass(frozen=True)
class Gradients:
    """Per-instance gradients of one trained problem at any checkpoint."""

    fitted: TorchFitted
    train: Split
    test: Split

    def at(self, checkpoint: Checkpoint, select: Select = "all", dtype: torch.dtype | None = None) -> GradientsAt:
        """Gradients at a checkpoint with respect to all parameters or those of the last linear layer."""
        module = self.fitted.model(checkpoint.step)
        if dtype is not None:
            module = module.to(dtype)
        wanted = dtype or self.fitted.recipe.x.dtype

        def tensors(split: Split) -> tuple[Tensor, Tensor]:
            x, y = self.fitted.tensors(split)
            return (x.to(wanted) if x.is_floating_point() else x), (y.to(wanted) if y.is_floating_point() else y)

        return GradientsAt(module, self.fitted.task, select, tensors)
