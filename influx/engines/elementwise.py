"""Parameters that act number by number: affine parts of norms, added embeddings, scales, slopes, repeated tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influx.engines.factors import Side
from influx.engines.recorder import Function, Handler, Recorder, unknown


class Written:
    """No sum of outer products."""

    extent = None
    inputs_side = 1
    numel = 0  # written out whatever it is

    def sides(self) -> tuple[Side, Side]:
        """There are none."""
        raise NotImplementedError

    def ordered(self, written: list[Tensor]) -> Tensor:
        """They are."""
        return written[0]


@dataclass(frozen=True)
class Affine(Written):
    """Weight and bias of a norm: output gradients ``(b k, ...)`` times what is normalised, summed over positions.

    They are as long as there are channels (the second dimension), or of the last dimensions' ``shape``.
    """

    normalised: Callable[[], Tensor]
    gradients: Tensor
    instances: int
    shape: torch.Size | None

    def written(self, into: list[Tensor] | None = None) -> list[Tensor]:
        """``(b, p)``."""
        return [self._reduced(self.normalised() * self.gradients)]

    def summed(self) -> Tensor:
        """``(b, p)``."""
        return self._reduced(self.gradients)

    def _reduced(self, values: Tensor) -> Tensor:
        if self.shape is not None:
            return values.reshape(self.instances, -1, self.shape.numel()).sum(1)
        return values.reshape(self.instances, -1, values.shape[1], values[0, 0].numel()).sum((1, 3))


@dataclass(frozen=True)
class Broadcast(Written):
    """A parameter of this ``shape`` that meets ``(b k, ...)`` numbers, whose output gradients are times ``factor``."""

    gradients: Tensor
    factor: Tensor | float
    instances: int
    shape: torch.Size

    def written(self, into: list[Tensor] | None = None) -> list[Tensor]:
        """Sums over whatever the parameter was repeated along, ``(b, p)``."""
        values = self.gradients * self.factor
        along = (1,) * (values.ndim - len(self.shape)) + tuple(self.shape)
        repeated = [i + 1 for i in range(1, values.ndim) if along[i] == 1]
        by_instance = values.reshape(self.instances, -1, *values.shape[1:])
        return [by_instance.sum([1, *repeated]).reshape(self.instances, -1)]

    def summed(self) -> Tensor:
        """There is no bias."""
        raise NotImplementedError


def _fits(recorder: Recorder, output: Tensor, shape: torch.Size) -> bool:
    """Whether a parameter of this shape is repeated for every instance."""
    return len(shape) < output.ndim or (len(shape) == output.ndim > 0 and shape[0] == 1)


def _pair(scale: bool, sign: float, recorder: Recorder, func: Function, args: Sequence[Any]) -> Any:
    """A parameter and other numbers, added or multiplied."""
    first, second = args
    parameter, other = (first, second) if recorder.is_selected(first) else (second, first)
    kept = other.detach() if scale else (sign if parameter is second else 1.0)
    output: Tensor = func(*args)
    b, shape = recorder.instances, parameter.shape
    if not _fits(recorder, output, shape) or (scale and func in IN_PLACE):
        recorder.release((parameter,))
        return output
    return recorder.note(output, output, lambda g: Broadcast(g, kept, b, shape), parameter)


def _binary(scale: bool, sign: float = 1.0) -> Handler:
    def handle(recorder: Recorder, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not kwargs and len(args) == 2 and all(isinstance(a, Tensor) for a in args):
            if sum(recorder.is_selected(a) for a in args) == 1:
                return _pair(scale, sign, recorder, func, args)
        return unknown(recorder, func, args, kwargs)

    return handle


def _expand(recorder: Recorder, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """One token for every instance."""
    if kwargs or not recorder.is_selected(args[0]):
        return unknown(recorder, func, args, kwargs)
    output: Tensor = func(*args)
    b, shape = recorder.instances, args[0].shape
    padded = (1,) * (output.ndim - len(shape)) + tuple(shape)
    if not _fits(recorder, output, shape) or any(n not in (1, m) for n, m in zip(padded, output.shape, strict=True)):
        recorder.release(args[:1])
        return output
    return recorder.note(output, output, lambda g: Broadcast(g, 1.0, b, shape), args[0])


def _prelu(recorder: Recorder, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if kwargs or recorder.is_selected(args[0]) or args[0].ndim < 2:
        return unknown(recorder, func, args, kwargs)
    x, weight = args
    output: Tensor = func(*args)
    b, shape = recorder.instances, torch.Size((len(weight), *[1] * (x.ndim - 2)))
    kept = x.detach().clamp_max(0)
    return recorder.note(output, x, lambda g: Broadcast(g, kept, b, shape), weight)


IN_PLACE = (Tensor.mul_, Tensor.__imul__)
ADD = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__)
MULTIPLY = (torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__)
HANDLERS: dict[Function, Handler] = {
    **dict.fromkeys(ADD, _binary(scale=False)),
    **dict.fromkeys((torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__), _binary(scale=False, sign=-1.0)),
    **dict.fromkeys(MULTIPLY, _binary(scale=True)),
    **dict.fromkeys((Tensor.expand, Tensor.repeat), _expand),
    torch.prelu: _prelu,
}
