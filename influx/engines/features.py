"""Learned representations: the input of the last linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from influx.engines.gradients import head_of
from influx.learners.torch.fitted import EVALUATION_CHUNK, TorchFitted
from influx.problem import Split


@dataclass(frozen=True)
class Features:
    """Features of a trained net."""

    fitted: TorchFitted

    @torch.no_grad()
    def penultimate(self, split: Split) -> Tensor:
        """``(n, d)`` inputs of the head under the final model."""
        module = self.fitted.model()
        kept: list[Tensor] = []

        def keep(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            kept.append(args[0].flatten(1))

        handle = head_of(module)[1].register_forward_pre_hook(keep)
        x, _ = self.fitted.tensors(split)
        for chunk in x.split(EVALUATION_CHUNK):
            module(chunk)
        handle.remove()
        return torch.cat(kept)
