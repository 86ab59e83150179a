"""Where a training takes place."""

from __future__ import annotations

import re

import torch

from influx.errors import ConfigError
from influx.learners.torch.training import Training


def device_of(training: Training) -> torch.device:
    """The device of ``training.device``; auto prefers CUDA.

    Raises:
        ConfigError: the device does not exist here, or has no ``training.precision``.
    """
    name = training.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"training.device must be cpu, cuda, cuda:N or auto, got {name!r}; change it")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"training.device={name} but no CUDA device is visible; use training.device=cpu")
    if name.startswith("cuda:") and int(name[5:]) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"training.device={name} but {count} CUDA devices are visible; use training.device=cuda")
    if name.startswith("cuda") and training.precision == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            f"training.precision=bfloat16 but the device {name} does not know bfloat16; use training.precision=model"
        )
    return torch.device(name)
