"""Gradients at the mean of several checkpoints' parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from influx.engines.gradients import Gradients, GradientsAt, Select
from influx.learners.torch.fitted import TorchFitted
from influx.problem import Checkpoint


@dataclass(frozen=True)
class MeanGradients(Gradients):
    """Per-instance gradients at the mean of the parameters of ``over``, whichever checkpoint is asked for."""

    over: tuple[Checkpoint, ...] = ()

    def at(self, checkpoint: Checkpoint, select: Select = "all", dtype: torch.dtype | None = None) -> GradientsAt:
        """See ``Gradients.at``."""
        return self.of(mean_module(self.fitted, self.over), select, dtype or self.fitted.recipe.dtype)


@torch.no_grad()
def mean_module(fitted: TorchFitted, checkpoints: tuple[Checkpoint, ...]) -> nn.Module:
    """The module in float64 and eval mode, with means of parameters and of buffers that are no counts."""
    module = fitted.model(checkpoints[0].step).double()
    for checkpoint in checkpoints[1:]:
        for total, more in zip(_numbers(module), _numbers(fitted.model(checkpoint.step)), strict=True):
            total.add_(more)
    for total in _numbers(module):
        total.div_(len(checkpoints))
    return module


def _numbers(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
