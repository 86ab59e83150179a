"""A module that somebody else made and trained, as a model choice: copied, unwrapped, asked for one risk each."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influx.errors import IncompatibleError
from influx.learners.torch.losses import LossFunction, per_instance
from influx.learners.torch.traits import check_state
from influx.problem import Data, TaskName

IGNORED = -100  # the target that torch's cross-entropy leaves out


@dataclass(frozen=True)
class Part:
    """A stretch of the columns of packed inputs: ``name`` (None is the first argument) and shape.

    ``whole`` numbers are from ``low`` to ``high``; others become the nearest of these, so that probes with other
    numbers than data do not fail.
    """

    name: str | None
    shape: tuple[int, ...]
    whole: bool
    low: int = 0
    high: int = 0

    @property
    def size(self) -> int:
        """Columns."""
        return int(torch.Size(self.shape).numel())

    def of(self, columns: Tensor) -> Tensor:
        """Its values (n, ...) from its columns."""
        values = columns.long().clamp(self.low, self.high) if self.whole else columns
        return values.reshape(len(columns), *self.shape)


class Unpacked(nn.Module):
    """Calls a module with the arguments that packed inputs (n, columns) hold; its logits where it returns more.

    With ``loss`` the last part is the target, and what is returned is the risk of each instance, (n, 1).
    """

    def __init__(self, inner: nn.Module, parts: tuple[Part, ...], loss: LossFunction | None = None) -> None:
        super().__init__()
        self.inner, self.parts, self.loss = inner, parts, loss

    def forward(self, packed: Tensor) -> Tensor:
        """Outputs (n, k), or risks (n, 1)."""
        flat = packed.flatten(1)
        pieces = flat.split([part.size for part in self.parts], 1)
        values = [part.of(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        target = values.pop() if self.loss is not None else None
        named = {part.name: value for part, value in zip(self.parts, values, strict=False) if part.name is not None}
        first = [value for part, value in zip(self.parts, values, strict=False) if part.name is None]
        outputs = outputs_of(self.inner(*first, **named))
        if self.loss is None:
            return outputs.unsqueeze(1) if outputs.ndim == 1 else outputs
        assert target is not None
        return per_instance(self.loss, outputs, target).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class Given:
    """Builds copies of one module; ``task`` is density where it returns its risk, perhaps of ``squared_errors``."""

    module: nn.Module
    task: TaskName | None = None
    squared_errors: bool = False

    def build(self, data: Data) -> nn.Module:
        """A copy, with the parameters that it has."""
        return copy.deepcopy(self.module)


def own_copy(module: nn.Module) -> nn.Module:
    """A copy on the processor in eval mode; what was frozen are buffers there. The module itself stays as it is.

    Wrappers of ``torch.compile`` and of data-parallel training are taken off, and a Lightning module comes without its
    trainer. Half precision becomes float32.

    Raises:
        IncompatibleError: it cannot be copied, has no trainable parameters, or state other than tensors.
    """
    if not isinstance(module, nn.Module):
        raise IncompatibleError(
            f"model must be a torch.nn.Module, got {type(module).__name__}; wrap what it computes in one"
        )
    inner = getattr(module, "_orig_mod", module)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    memo = {id(held): None for name in ("_trainer", "_fabric") if (held := inner.__dict__.get(name)) is not None}
    try:
        found: nn.Module = copy.deepcopy(inner, memo)
    except Exception as error:
        raise IncompatibleError(
            f"the model cannot be copied ({type(error).__name__}: {error}); pass a module whose tensors are parameters "
            "and buffers"
        ) from error
    found = found.cpu()
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in found.parameters()):
        found = found.float()
    for part in found.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and not parameter.requires_grad:
                del part._parameters[name]
                part.register_buffer(name, parameter.detach())
    for parameter in found.parameters():
        parameter.grad = None
    if next(found.parameters(), None) is None:
        raise IncompatibleError("the model must have trainable parameters, it has none; set requires_grad=True")
    check_state(found)
    return found.eval()


def outputs_of(found: Any) -> Tensor:
    """A module's output tensor; of Hugging Face's models the logits.

    Raises:
        IncompatibleError: it returned something else.
    """
    if isinstance(found, Tensor):
        return found
    logits = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise IncompatibleError(
        f"the model must return a tensor, or an output with logits, got {type(found).__name__}; wrap it in a module "
        "that does"
    )


def arguments_of(module: nn.Module) -> tuple[str, ...] | None:
    """Names that ``forward`` takes; None where it takes any."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return tuple(p.name for p in parameters)


def token_loss(shifted: bool) -> LossFunction:
    """Mean cross-entropy of an instance's tokens (n, length, vocabulary); ``shifted`` where each predicts the next."""

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        if shifted:
            outputs, y = outputs[:, :-1], y[:, 1:]
        each = F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none", ignore_index=IGNORED)
        counted = (y != IGNORED).sum(1).clamp_min(1)
        return each.view(y.shape).sum(1) / counted

    return loss


def half_squares(outputs: Tensor, y: Tensor) -> Tensor:
    """Half the squared error, summed over an instance's outputs."""
    return 0.5 * (outputs.reshape(y.shape) - y).square().flatten(1).sum(1)
