"""A training's passes through ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from influx.errors import ConfigError


def compiled(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What the module does, compiled for each size of a batch when it first comes, so that bits depend on no other.

    Parameters stay the module's own, and so do their names. Modules of one structure share what was compiled.
    """
    call: Callable[[Tensor], Tensor] = torch.compile(module, dynamic=False)
    return call


@contextmanager
def compiling() -> Iterator[None]:
    """Say in one sentence why the steps inside cannot be compiled.

    Raises:
        ConfigError: there is no compiler here, or the model's code is beyond it.
    """
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # takes a second

        if not isinstance(error, TorchDynamoException):
            raise
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"training.compile=true but torch.compile cannot compile this model here ({first[:200]}); install a C++ "
            "compiler (g++) if there is none, or set training.compile=false"
        ) from error
