"""What a forward pass does with the selected parameters, seen while it happens.

Calls whose per-instance gradients follow from their input and the gradient of their output are kept as *uses*. A
parameter that goes anywhere else is *free*: only autograd knows its gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from influx.engines.factors import Term
from influx.learners.torch.pace import tensors_in

MakeTerm = Callable[[Tensor], Term]  # the gradient of an output -> what its use contributes


@dataclass(frozen=True)
class Use:
    """One call: where the gradient of its output (``shape``) flows, and what to make of that gradient."""

    edge: GradientEdge
    shape: torch.Size
    term: MakeTerm
    weight: int | None  # ids of the parameters, None when not selected
    bias: int | None


Function = Callable[..., Any]
Handler = Callable[["Recorder", Function, Sequence[Any], Mapping[str, Any]], Any]


@dataclass
class Recorder(TorchFunctionMode):
    """Records while it is active.

    Attributes:
        selected: ids of the parameters to look out for.
        instances: of the forward pass; outputs hold them in their first dimension, k rows or images each.
        handlers: what to do at calls that may be uses.
        count: sum up the sizes of all outputs.
    """

    selected: frozenset[int]
    instances: int
    handlers: Mapping[Function, Handler]
    count: bool = False
    uses: list[Use] = field(default_factory=list)
    free: set[int] = field(default_factory=set)
    numbers: int = 0  # in all outputs, when counting
    inputs: int = 0  # in the inputs of uses

    def __post_init__(self) -> None:
        """Set up the mode."""
        super().__init__()

    def __torch_function__(
        self, func: Function, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the call and note what it does with the selected parameters."""
        handler = self.handlers.get(func)
        output = (handler or unknown)(self, func, args, kwargs or {})
        if self.count and torch.is_grad_enabled():
            self.numbers += sum(t.numel() for t in tensors_in(output) if t.grad_fn is not None)
        return output

    def is_selected(self, value: object) -> bool:
        """Whether it is one of the parameters."""
        return id(value) in self.selected

    def release(self, values: Iterable[object]) -> None:
        """Leave those of the values that are selected parameters to autograd."""
        self.free.update(id(value) for value in values if id(value) in self.selected)

    def note(self, output: Tensor, given: Tensor, term: MakeTerm, weight: object, bias: object = None) -> Tensor:
        """Keep a use of weight and bias on the input ``given``; returns ``output``."""
        known = [id(p) if id(p) in self.selected else None for p in (weight, bias)]
        if known == [None, None] or not output.requires_grad:
            return output
        if output.ndim == 0 or len(output) % self.instances or not len(output):
            self.release((weight, bias))
            return output
        self.inputs += given.numel()
        self.uses.append(Use(_edge(output), output.shape, term, known[0], known[1]))
        return output


def _edge(output: Tensor) -> GradientEdge:
    """Of what was computed: that of a view is replaced when somebody writes into it."""
    base = output._base
    if base is None or isinstance(base, nn.Parameter) or base.numel() != output.numel():
        return get_gradient_edge(output)
    return get_gradient_edge(base if base.is_contiguous() and output.is_contiguous() else output)  # in the same order


def unknown(recorder: Recorder, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run a call that is no use; parameters on which its output depends are free."""
    output = func(*args, **kwargs)
    touched = [t for t in tensors_in((args, kwargs)) if id(t) in recorder.selected] if args else []
    if touched and any(t.requires_grad for t in tensors_in(output)):
        recorder.release(touched)
    return output
