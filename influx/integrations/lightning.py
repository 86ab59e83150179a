"""A callback for Lightning (``pip install influx[lightning]``)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx.errors import ConfigError
from influx.integrations.saving import Checkpoints


def _callback() -> Any:
    """Lightning's class of callbacks, under either name of the package: the one in use, if one is."""
    for name in sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError:
            continue
    raise ConfigError("influx.integrations.lightning needs Lightning, which is not installed; pip install lightning")


if TYPE_CHECKING:
    Callback = object
else:
    Callback = _callback()


class InfluxCallback(Callback):
    """Saves checkpoints of a ``Trainer``'s training that ``training=imported`` and ``influx.attribute`` read.

    Parameters are saved before the first batch of every ``every``-th update, with the learning rates of that update,
    and at the end; names are those of the module that the trainer fits. Only the first process writes.
    """

    def __init__(self, folder: str | Path, *, every: int = 100, moments: bool = False) -> None:
        """Checkpoints go to ``folder``, which must be empty of them; ``every`` counts updates.

        With ``moments`` what the optimizer remembers is saved too (of Adam two numbers per parameter).

        Raises:
            ConfigError: ``every`` is below 1, or the folder holds checkpoints.
        """
        super().__init__()
        self.checkpoints = Checkpoints(folder, every, moments)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Save what is due."""
        if self.checkpoints.due(trainer.global_step):
            self._save(trainer, pl_module)
        self.checkpoints.note(trainer.global_step, _groups(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the final parameters."""
        self._save(trainer, pl_module)

    def _save(self, trainer: Any, module: Any) -> None:
        if trainer.is_global_zero:
            self.checkpoints.save(trainer.global_step, module, _groups(trainer), [o.state for o in trainer.optimizers])


def _groups(trainer: Any) -> list[dict[str, Any]]:
    """Parameter groups of all optimizers."""
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
