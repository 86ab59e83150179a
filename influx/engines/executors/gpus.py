"""Which GPUs of this machine a run deals out to its workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from influx.errors import ConfigError


def refuse_unused(count: int, settings: Mapping[str, Any]) -> None:
    """Refuse to deal out cards that nothing computes on; ``settings`` are those of a ``Place``.

    Raises:
        ConfigError: the training is on the processor.
    """
    device = settings.get("values", {}).get("training", {}).get("device")
    if device == "cpu":
        raise ConfigError(
            f"executor.gpus={count} deals out cards, but training.device={device} computes on the processor; set "
            "training.device=cuda, or leave executor.gpus out"
        )


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
