"""What gradients are tried on, and what makes a model unfit for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from influx.errors import IncompatibleError
from influx.learners.torch.sequential import GLOBAL_GENERATOR, random_state


@contextmanager
def in_float64(module: nn.Module) -> Iterator[None]:
    """The module computes in float64 inside, and is what it was afterwards, bit by bit."""
    kept = [(t, t.data) for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    try:
        for tensor, data in kept:
            tensor.data = data.double()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def mix(outputs: Tensor, x: Tensor) -> Tensor:
    """Weights of an instance's outputs, the same whatever the instance."""
    return torch.linspace(1, 2, outputs.shape[1], dtype=outputs.dtype, device=outputs.device).expand_as(outputs)


def noise_like(x: Tensor, module: nn.Module) -> Tensor:
    """One more instance, without the zeros of real ones: Gaussian, or a given one where numbers are indices."""
    if not x.is_floating_point() or any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in module.modules()):
        return x[:1]
    own = torch.Generator().manual_seed(0)
    return torch.randn(x[:1].shape, generator=own, dtype=x.dtype).to(x.device)


def agree(found: Tensor, expected: Tensor, largest: Tensor, tolerance: float) -> bool:
    """One parameter's gradients ``(b, p)`` as a whole, leaving alone what is zero but for rounding.

    ``largest`` is the norm of an instance's gradient with respect to all parameters.
    """
    if found.shape != expected.shape:
        return False
    return bool(((found - expected).norm(dim=1) <= tolerance * (expected.norm(dim=1) + 0.01 * largest)).all())


def check_own_memory(module: nn.Module) -> None:
    """Refuse parameters that share memory without being the same parameter.

    Raises:
        IncompatibleError: two do.
    """
    spans = []
    for name, p in module.named_parameters():
        if p.numel() and p.layout == torch.strided:
            last = sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))
            spans.append((str(p.device), p.data_ptr(), p.data_ptr() + (last + 1) * p.element_size(), name))
    spans.sort()
    for (device, _, end, name), (other_device, start, _, other) in pairwise(spans):
        if device == other_device and start < end:
            raise IncompatibleError(
                f"every parameter must have its own memory, {name} and {other} share it; make them one nn.Parameter, "
                "which both layers use"
            )


@contextmanager
def drawing_nothing(module: nn.Module, device: torch.device) -> Iterator[None]:
    """What happens inside draws no random numbers.

    Raises:
        IncompatibleError: it does.
    """
    with GLOBAL_GENERATOR:
        before = random_state(device)
        yield
        drawn = not torch.equal(before, random_state(device))
    if drawn:
        raise IncompatibleError(
            f"{type(module).__name__} draws random numbers in eval mode, so that gradients are random; make the layer "
            "that draws them do so only when self.training"
        )
