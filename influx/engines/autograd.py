"""Per-instance gradients of parameters of which nothing is known: ``vmap(grad)``, or one backward pass each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from influx.engines.layers import LayerRows

FORWARD = 16  # directions at most for which a pass each is worth a try
MAPPED_PASSES = 4  # the same where ``vmap(grad)`` works; as measured a pass costs a sixth to a thirtieth of it


def gradients(result: Tensor, wanted: Sequence[Any], seeds: Tensor, again: bool = False) -> list[Tensor | None]:
    """Of Σ result · seeds with respect to tensors or edges of the graph; None where ``result`` does not depend on one.

    ``again`` keeps the graph for another call. By a sum: ``grad_outputs`` would load a symbolic algebra package.
    """
    with torch.enable_grad():
        total = (result * seeds).sum()
    return list(torch.autograd.grad(total, wanted, allow_unused=True, retain_graph=again))


def exactly(of: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, y: Tensor) -> Tensor:
    """In float64, since p - 1 of a fitted instance cancels; then in the precision of the outputs."""
    return of(outputs.double(), y.double() if y.is_floating_point() else y).to(outputs.dtype)


def one_by_one(module: nn.Module, params: Sequence[Tensor], x: Tensor, seeds: Tensor) -> Tensor:
    """``(b, p)`` by one backward pass per instance: slow, and what all else is held against."""
    rows = []
    with torch.enable_grad(), differentiable(module):
        for one, seed in zip(x.split(1), seeds.split(1), strict=True):
            found = gradients(module(one), params, seed)
            pairs = zip(params, found, strict=True)
            rows.append(torch.cat([_dense(p if g is None else g, g is None) for p, g in pairs]))
    return torch.stack(rows)


def _dense(tensor: Tensor, zero: bool) -> Tensor:
    if zero:
        return torch.zeros_like(tensor).flatten()
    return (tensor.to_dense() if tensor.is_sparse else tensor).flatten()


def differentiable(module: nn.Module) -> AbstractContextManager[object]:
    """Without cuDNN where it has no backward pass: for recurrent layers in eval mode."""
    recurrent = any(isinstance(m, nn.RNNBase) for m in module.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch says about its own code: it is slow for an operation, or calls what it deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
        yield


@dataclass
class Free:
    """Gradients of ``b`` instances with respect to some parameters of a module, made when asked for."""

    module: nn.Module
    names: list[str]
    x: Tensor  # (b, ...)
    seeds: Tensor  # (b, outputs) gradients of the risk with respect to the outputs
    mapped: bool  # vmap knows the module

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """By name, in the order of ``names``."""
        everything = dict(self.module.named_parameters())
        return {name: everything[name].detach() for name in self.names}

    @property
    def is_written(self) -> bool:
        """Whether the gradients exist by now."""
        return "written" in self.__dict__

    @cached_property
    def written(self) -> dict[str, Tensor]:
        """``(b, p)`` of each parameter."""
        if not self.mapped:
            everything = dict(self.module.named_parameters())
            params = [everything[name] for name in self.names]
            rows = one_by_one(self.module, params, self.x, self.seeds)
            parts = rows.split([p.numel() for p in params], 1)
            return dict(zip(self.names, parts, strict=True))

        def projected(params: dict[str, Tensor], one: Tensor, seed: Tensor) -> Tensor:
            return (self._outputs(params, one[None])[0] * seed).sum()

        # vmap would run the other kernels of attention one instance at a time
        with torch.no_grad(), quiet(), sdpa_kernel(SDPBackend.MATH):
            found = vmap(grad(projected), in_dims=(None, 0, 0))(self.parameters, self.x, self.seeds)
        return {name: g.flatten(1) for name, g in found.items()}

    def _outputs(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.module, params, (x,))
        return outputs

    def prefers_forward(self, directions: int) -> bool:
        """Whether a forward-mode pass per direction costs less than gradients written out."""
        if self.is_written or directions > FORWARD:
            return False
        return directions <= MAPPED_PASSES if self.mapped else directions < len(self.x)

    def along(self, directions: dict[str, Tensor]) -> Tensor | None:
        """``(b, m)`` products with m directions, each in one forward-mode pass; None where there is none."""
        columns = []
        try:
            with torch.no_grad(), quiet(), sdpa_kernel(SDPBackend.MATH), differentiable(self.module):
                for rows in zip(*(directions[name] for name in self.names), strict=True):
                    columns.append(self._along_one(rows))
        except (NotImplementedError, RuntimeError):  # some operations have no forward mode
            return None
        return torch.stack(columns, 1)

    def _along_one(self, rows: Sequence[Tensor]) -> Tensor:
        with forward_ad.dual_level():
            pairs = zip(self.parameters.items(), rows, strict=True)
            duals = {name: forward_ad.make_dual(p, row.view_as(p)) for (name, p), row in pairs}
            outputs = self._outputs(duals, self.x)
            tangent = forward_ad.unpack_dual(outputs).tangent
            return torch.zeros_like(self.seeds[:, 0]) if tangent is None else (tangent * self.seeds).sum(1)


@dataclass(frozen=True)
class FreePart:
    """One parameter of those."""

    whole: Free
    name: str

    def dot(self, other: LayerRows) -> Tensor:
        """One product of matrices."""
        return self.flat() @ other.flat().T

    def squares(self) -> Tensor:
        """Row sums of squares."""
        return self.flat().square().sum(1)

    def flat(self) -> Tensor:
        """Written out."""
        return self.whole.written[self.name]

    def tensors(self) -> list[LayerRows]:
        """Itself."""
        return [self]
