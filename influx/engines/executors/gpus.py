"""Which GPUs of this machine a run deals out to its workers."""

from __future__ import annotations

import os

import torch

from influx.errors import ConfigError


def dealt(count: int) -> list[str]:
    """The first ``count`` GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Raises:
        ConfigError: there are fewer.
    """
    seen, told = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if count > seen:
        hidden = f" (CUDA_VISIBLE_DEVICES={told})" if told is not None else ""
        raise ConfigError(
            f"executor.gpus must be at most the {seen} GPUs that this process sees{hidden}, got {count}; lower it, or "
            "leave it out where there is none"
        )
    names = [str(number) for number in range(seen)] if told is None else [name.strip() for name in told.split(",")]
    return names[:count]
