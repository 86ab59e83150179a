"""What all recorders share: when a checkpoint is due, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from influx.errors import ConfigError
from influx.learners.torch.fitted import parameters_name, save_tensors
from influx.learners.torch.traits import check_state
from influx.store import Folder


class Checkpoints:
    """A folder of checkpoints ``step_00000500.safetensors``: parameters and buffers after that many updates.

    Each says its step and the learning rates of the update that leaves it, one per parameter group. Files are whole or
    absent, and carry checksums.
    """

    def __init__(self, folder: str | Path, every: int) -> None:
        """A checkpoint is due before every ``every``-th update.

        Raises:
            ConfigError: ``every`` is no whole number of at least 1, or another training has left checkpoints there.
        """
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ConfigError(f"every must be a whole number of at least 1, got {every!r}; it counts updates")
        self.folder, self.every, self.last = Folder(Path(folder)), every, -1
        earlier = sorted(name for name in self.folder.checksums() if name.startswith("step_"))
        if earlier:
            raise ConfigError(
                f"{folder} holds checkpoints of another training ({earlier[0]}…); name an empty folder or remove them"
            )

    def due(self, step: int) -> bool:
        """Whether the parameters after ``step`` updates are to be saved, and are not yet."""
        return step % self.every == 0 and step > self.last

    def save(self, step: int, module: nn.Module, groups: Iterable[dict[str, Any]]) -> None:
        """Write the module's parameters and buffers; ``groups`` are those of the optimizer."""
        if step <= self.last:
            return
        tensors = state_of(module)
        noted = {"step": str(step), "lr": json.dumps([float(group["lr"]) for group in groups])}
        self.folder.write(parameters_name(step), lambda path: save_tensors(tensors, path, noted))
        self.last = step


@torch.no_grad()
def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers on the processor, without the names that wrappers add.

    Raises:
        IncompatibleError: the module's state is more than tensors.
    """
    inner = getattr(module, "_orig_mod", module)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    check_state(inner)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in inner.state_dict().items()}
