"""A small net with its data, trained by hand, and what plain autograd says of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

RATES = (0.3, 0.2, 0.1)


def net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


@dataclass
class Trained:
    """Three full-batch steps with a falling rate; ``states`` are those before each of them."""

    model: nn.Module = field(default_factory=net)
    x: Tensor = field(default_factory=lambda: torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double())
    y: Tensor = field(default_factory=lambda: torch.arange(8) % 3)
    states: list[dict[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        optimizer = torch.optim.SGD(self.model.parameters())
        for rate in RATES:
            self.states.append({name: value.clone() for name, value in self.model.state_dict().items()})
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.y).backward()
            optimizer.step()

    @property
    def train(self) -> tuple[Tensor, Tensor]:
        return self.x[:6], self.y[:6]

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        return self.x[6:], self.y[6:]

    def rows(self, state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Gradients of each instance's cross-entropy, one backward pass each."""
        made = net()
        made.load_state_dict(state)
        found = []
        for a, b in zip(x, y, strict=True):
            grads = torch.autograd.grad(F.cross_entropy(made(a[None]), b[None]), list(made.parameters()))
            found.append(torch.cat([g.flatten() for g in grads]))
        return torch.stack(found)

    def tracin(self, states: list[dict[str, Tensor]], rates: tuple[float, ...]) -> NDArray[np.float64]:
        """Σ_c η_c ⟨g_i, g_j⟩."""
        sums = [
            rate * self.rows(state, *self.train) @ self.rows(state, *self.test).T
            for state, rate in zip(states, rates, strict=True)
        ]
        return torch.stack(sums).sum(0).numpy()
