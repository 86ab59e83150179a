"""A callback for the trainer of Hugging Face's transformers (``pip install influx[text]``)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx.errors import ConfigError
from influx.integrations.saving import Checkpoints


def _callback() -> Any:
    try:
        return importlib.import_module("transformers").TrainerCallback
    except ModuleNotFoundError as error:
        raise ConfigError(
            "influx.integrations.transformers needs transformers, which is not installed; pip install transformers"
        ) from error


if TYPE_CHECKING:
    TrainerCallback = object
else:
    TrainerCallback = _callback()


class InfluxCallback(TrainerCallback):
    """Saves checkpoints of a ``Trainer``'s training that ``training=imported`` and ``influx.attribute`` read.

    Parameters are saved before every ``every``-th update, with the learning rates of that update, and at the end. Only
    the first process writes.
    """

    def __init__(self, folder: str | Path, *, every: int = 100, moments: bool = False) -> None:
        """Checkpoints go to ``folder``, which must be empty of them; ``every`` counts updates.

        With ``moments`` what the optimizer remembers is saved too (of Adam two numbers per parameter).

        Raises:
            ConfigError: ``every`` is below 1, or the folder holds checkpoints.
        """
        self.checkpoints = Checkpoints(folder, every, moments)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save what is due."""
        if self.checkpoints.due(state.global_step):
            self._save(state, **kwargs)
        self.checkpoints.note(state.global_step, kwargs["optimizer"].param_groups)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the final parameters."""
        self._save(state, **kwargs)

    def _save(self, state: Any, model: Any, optimizer: Any, **others: Any) -> None:
        if state.is_world_process_zero:
            self.checkpoints.save(state.global_step, model, optimizer.param_groups, [optimizer.state])
