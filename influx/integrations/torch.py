"""A recorder for training loops of plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from influx.integrations.saving import Checkpoints


class Recorder:
    """Saves checkpoints while a training loop runs, in a ``with`` block around the loop.

    It counts the calls of ``optimizer.step`` and saves the parameters before every ``every``-th of them, with the
    learning rate that this step takes, and once more at the end of the block. Buffers such as running statistics are
    those of that moment: they have seen the batch of the step. Nothing of the training changes.

    Example:
        with Recorder(model, optimizer, "checkpoints", every=50):
            train(model, optimizer)
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, folder: str | Path, *, every: int = 100, moments: bool = False
    ) -> None:
        """Checkpoints go to ``folder``, which must be empty of them.

        Args:
            model: what is trained.
            optimizer: the one whose steps count.
            folder: where checkpoints go.
            every: updates from one checkpoint to the next.
            moments: also save what the optimizer remembers (of Adam two numbers per parameter).

        Raises:
            ConfigError: ``every`` is below 1, or the folder holds checkpoints.
        """
        self.model, self.optimizer = model, optimizer
        self.checkpoints, self.step = Checkpoints(folder, every, moments), 0
        self._handle: Any = None

    def __enter__(self) -> Recorder:
        self._handle = self.optimizer.register_step_pre_hook(self._before)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        if kind is None:
            self._save()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.checkpoints.due(self.step):
            self._save()
        self.checkpoints.note(self.step, optimizer.param_groups)
        self.step += 1

    def _save(self) -> None:
        self.checkpoints.save(self.step, self.model, self.optimizer.param_groups, [self.optimizer.state])
