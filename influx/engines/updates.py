"""An optimizer's update if one instance's gradient were that of the next batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from influx.engines.layers import Flat
from influx.engines.rows import Rows
from influx.learners.torch.optimizers import Optimizer
from influx.learners.torch.sequential import State


@dataclass
class Updates:
    """Γ(g): momentum and second moments as recorded at a state, this gradient on top, no weight decay, unit rate.

    ``numbers`` are the cosines of gradients with their updates.
    """

    optimizer: Optimizer
    slots: dict[str, Tensor]  # each (1, p)
    step: int  # of the update, from 1
    numbers: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def at(cls, optimizer: Optimizer, state: State) -> Updates:
        """After the updates that a state stands for."""
        slots = {name: torch.cat([t.flatten() for t in tensors])[None] for name, tensors in state.slots.items()}
        return cls(optimizer, slots, state.step + 1)

    def __call__(self, rows: Rows) -> Rows:
        """The gradients' updates, written out."""
        given = rows.flat()
        slots = {name: [value.to(given)] for name, value in self.slots.items()}
        (moved,), _ = self.optimizer.step([torch.zeros_like(given)], [given], slots, [1.0], [0.0], self.step)
        update = moved.neg_()
        lengths = given.norm(dim=1) * update.norm(dim=1)
        cosines = (given * update).sum(1) / lengths.clamp_min(torch.finfo(given.dtype).tiny)
        self.numbers = torch.where(lengths > 0, cosines, 0)
        return Rows([Flat(update)])
