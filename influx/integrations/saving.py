"""What all recorders share: when a checkpoint is due, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from influx.errors import ConfigError
from influx.learners.torch.fitted import parameters_name, save_tensors, state_name
from influx.learners.torch.moments import noted as noted_moments
from influx.learners.torch.traits import check_state
from influx.store import Folder


class Checkpoints:
    """A folder of checkpoints ``step_00000500.safetensors``: parameters and buffers after that many updates.

    Each says its step, the learning rates of the update that leaves it, one per parameter group, and those of all
    updates since the last one. Files are whole or absent, and carry checksums.
    """

    def __init__(self, folder: str | Path, every: int, moments: bool = False) -> None:
        """A checkpoint is due before every ``every``-th update; with ``moments``, what the optimizer remembers too.

        Raises:
            ConfigError: ``every`` is no whole number of at least 1, or another training has left checkpoints there.
        """
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ConfigError(f"every must be a whole number of at least 1, got {every!r}; it counts updates")
        self.folder, self.every, self.moments, self.last = Folder(Path(folder)), every, moments, -1
        self._runs: list[list[Any]] = []  # updates since the last checkpoint: [how many, rates of the groups]
        self._next: int | None = None  # the update to be noted next
        earlier = sorted(name for name in self.folder.checksums() if name.startswith("step_"))
        if earlier:
            raise ConfigError(
                f"{folder} holds checkpoints of another training ({earlier[0]}…); name an empty folder or remove them"
            )

    def due(self, step: int) -> bool:
        """Whether the parameters after ``step`` updates are to be saved, and are not yet."""
        return step % self.every == 0 and step > self.last

    def note(self, step: int, groups: Iterable[dict[str, Any]]) -> None:
        """Remember the learning rates of the update that follows ``step`` others; a skipped number has the last."""
        if self._next is not None and step < self._next:  # a batch of an update that is noted
            return
        self._reach(step)
        rates = [float(group["lr"]) for group in groups]
        if self._runs and self._runs[-1][1] == rates:
            self._runs[-1][0] += 1
        else:
            self._runs.append([1, rates])
        self._next = step + 1

    def save(
        self, step: int, module: nn.Module, groups: Iterable[dict[str, Any]], states: Iterable[Mapping[Any, Any]] = ()
    ) -> None:
        """Write the module's parameters and buffers; ``groups`` and ``states`` are those of the optimizers.

        To be called before the update that leaves them is noted.
        """
        if step <= self.last:
            return
        tensors = state_of(module)
        noted = {"step": str(step), "lr": json.dumps([float(group["lr"]) for group in groups])}
        self._reach(step)
        if self._runs:
            noted["lr_before"] = json.dumps(self._runs)
        self._runs, self._next = [], None
        if self.moments:  # first: a checkpoint is there when its parameters are
            held = noted_moments(unwrapped(module), {key: value for state in states for key, value in state.items()})
            self.folder.write(state_name(step), lambda path: save_tensors(held, path, {"step": str(step)}))
        self.folder.write(parameters_name(step), lambda path: save_tensors(tensors, path, noted))
        self.last = step

    def _reach(self, step: int) -> None:
        """Updates up to ``step`` that nobody noted had the rates of the last one that was."""
        if self._next is not None and self._runs:
            self._runs[-1][0] += step - self._next


def unwrapped(module: nn.Module) -> nn.Module:
    """Without what compilation and data parallelism put around it."""
    inner = getattr(module, "_orig_mod", module)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return cast(nn.Module, inner.module)
    return cast(nn.Module, inner)


@torch.no_grad()
def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers on the processor, without the names that wrappers add.

    Raises:
        IncompatibleError: the module's state is more than tensors.
    """
    inner = unwrapped(module)
    check_state(inner)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in inner.state_dict().items()}
