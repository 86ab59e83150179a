"""Nets too large to be tried and counted by running them: their shapes alone, and the first tokens of long texts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from influx.learners.torch.sequential import GLOBAL_GENERATOR

LARGE = 1 << 24  # parameters from which shapes are worked out without numbers
LONG = 1 << 31  # parameters times tokens from which a few tokens stand for a text
FEW = 32  # tokens


def is_large(module: nn.Module) -> bool:
    """Whether a pass through the module, or another copy of it, takes long enough to be avoided."""
    return numbers_of(module) >= LARGE


def numbers_of(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def outline(module: nn.Module) -> nn.Module:
    """A copy without numbers: its tensors are on torch's meta device, where operations compute shapes alone."""
    without: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in module.parameters()
    }
    without |= {id(b): b.detach().to("meta") for b in module.buffers()}
    return copy.deepcopy(module, without)


def passes_in_outline(module: nn.Module, run: Callable[[nn.Module], object]) -> bool:
    """Whether ``run`` goes through with the outline of a module; what fails there may still work with numbers."""
    try:
        run(outline(module))
    except Exception:  # code that looks at numbers, or mixes devices, fails in any way
        return False
    return True


def few_tokens(module: nn.Module, x: Tensor) -> Tensor:
    """The first tokens of ``x`` (n, length) where all of them would take seconds; else, or if refused, ``x``.

    What a module does to instances of a batch does not depend on how long they are.
    """
    if x.is_floating_point() or x.ndim != 2 or x.shape[1] <= FEW or numbers_of(module) * x.shape[1] < LONG:
        return x
    fewer = x[:, :FEW].contiguous()
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        with GLOBAL_GENERATOR, torch.random.fork_rng(devices=devices), torch.no_grad():
            module(fewer)
    except Exception:  # a module for one length
        return x
    return fewer


def kept_bytes(module: nn.Module, x: Tensor) -> float:
    """Of a forward pass on ``x``: what it keeps for the way back beside parameters, and twice the largest of that.

    On the way back a tensor's gradient, and what it is computed from, stand beside it.
    """
    own = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers(), x)}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
        module(x)
    found = [storage.nbytes() for storage in kept.values()]
    return float(sum(found) + 2 * max(found, default=0))


def multiply_adds(run: Callable[[], object]) -> float:
    """Of the products of matrices and convolutions that ``run`` makes, whatever layers they belong to."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 2
