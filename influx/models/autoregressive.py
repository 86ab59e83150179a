"""Autoregressive densities of tables and small images: each feature given those before it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influx.errors import ConfigError
from influx.models.inputs import flat_size
from influx.models.layers import ACTIVATIONS, activation, unrounded
from influx.models.settings import check_choice, check_counts, check_flag, check_positive
from influx.problem import Data, TaskName


class Masked(nn.Module):
    """A linear layer some of whose weights are 0 and stay so; ``allowed`` (out, in) are the others."""

    allowed: Tensor

    def __init__(self, allowed: Tensor) -> None:
        super().__init__()
        self.register_buffer("allowed", allowed, persistent=False)
        size_out, size_in = allowed.shape
        made = nn.Linear(size_in, size_out)
        self.weight, self.bias = made.weight, made.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in) -> (n, out)``."""
        return F.linear(x, self.weight * self.allowed, self.bias)


class AutoregressiveDensity(nn.Module):
    """p(x) = Π_j N(x_j; m_j(x_1 … x_{j-1}), s_j(x_1 … x_{j-1})²); the output is the risk ``(n, 1)``, -log p in nats.

    All conditionals come from one pass of a network with masked weights (MADE, Germain et al. 2015): a hidden unit of
    degree h reads features up to h and is read for those after h. Every layer also has a way around it, so that means
    that are linear in the features need no hidden unit. The label, one-hot behind the features, is read by all.
    """

    def __init__(self, model: Autoregressive, data: Data) -> None:
        super().__init__()
        self.shape, self.labels = tuple(data.train.x.shape[1:]), len(data.classes) if model.conditional else 0
        self.size: int = math.prod(self.shape)
        self.least_scale = model.least_scale
        inputs = torch.cat([torch.arange(1, self.size + 1), torch.zeros(self.labels, dtype=torch.int64)])
        outputs = torch.arange(1, self.size + 1).repeat(2)  # means, then what deviations are made of
        degrees = [inputs, *(self._degrees(width) for width in model.width)]
        hidden: list[nn.Module] = []
        for before, after in pairwise(degrees):
            hidden += [Masked((after[:, None] >= before).float()), activation(model.activation)]
        self.hidden = nn.Sequential(*hidden)
        self.last = Masked((outputs[:, None] > degrees[-1]).float()) if model.width else None
        self.around = Masked((outputs[:, None] > inputs).float())

    def _degrees(self, width: int) -> Tensor:
        """Spread evenly over 1 to d - 1; 0 for all, which read labels alone, when there is one feature."""
        if self.size == 1:
            return torch.zeros(width, dtype=torch.int64)
        return 1 + torch.arange(width) * (self.size - 1) // width

    @property
    def sample_width(self) -> int:
        """Standard normal numbers that a sample takes."""
        return self.size

    def forward(self, x: Tensor) -> Tensor:
        """``(n, ...) -> (n, 1)``."""
        flat = x.flatten(1)
        mean, scale = self._conditionals(flat)
        off = (flat[:, : self.size] - mean) / scale
        risk: Tensor = (0.5 * off.square() + scale.log()).sum(1, keepdim=True)
        return risk + 0.5 * self.size * math.log(2 * math.pi)

    def _conditionals(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations ``(n, d)``."""
        found: Tensor = self.around(flat)
        if self.last is not None:
            found = found + self.last(self.hidden(flat))
        mean, raw = unrounded(found).chunk(2, 1)
        return mean, self.least_scale + F.softplus(raw)

    @torch.no_grad()
    def sample(self, normals: Tensor, labels: Tensor | None = None) -> Tensor:
        """Instances ``(n, *shape)`` from standard normal numbers (n, d), one pass per feature.

        ``labels`` (n,) are class indices, for conditional models.

        Raises:
            ValueError: a conditional model was given no labels.
        """
        if self.labels and labels is None:
            raise ValueError("a conditional model samples for given labels; pass class indices (n,)")
        known = normals[:, :0] if labels is None or not self.labels else F.one_hot(labels, self.labels).to(normals)
        rows = torch.cat([torch.zeros_like(normals), known], 1)
        for place in range(self.size):
            mean, scale = self._conditionals(rows)
            rows[:, place] = mean[:, place] + scale[:, place] * normals[:, place]
        return rows[:, : self.size].reshape(len(normals), *self.shape)


@dataclass(frozen=True, kw_only=True)
class Autoregressive:
    """Features one after the other, each normal given those before it; the risk is exactly -log p(x) in nats.

    See ``AutoregressiveDensity``. ``width`` lists the widths of the hidden layers; with [] the means are linear.
    ``least_scale`` is the smallest deviation of a feature: what is constant would have a density without bound.
    ``conditional``: all features depend on the label too. Source: Germain et al. 2015, with normal conditionals.
    The risk is a sum over features, so that SGD wants smaller steps for more of them: on digits optimizer.lr=0.01.
    """

    task: ClassVar[TaskName] = "density"
    log_density: ClassVar[str] = "exact"  # minus the risk
    squared_errors: ClassVar[bool] = True  # the risk is made of them

    width: list[int] = field(default_factory=lambda: [64])
    activation: str = "tanh"
    least_scale: float = 0.1
    conditional: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        if not isinstance(self.width, (list, tuple)):
            raise ConfigError(f"model.width must be a list of widths, got {self.width!r}; set for example [64]")
        if self.width:
            check_counts("width", self.width)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_positive("least_scale", self.least_scale)
        check_flag("conditional", self.conditional)

    def build(self, data: Data) -> nn.Module:
        """The untrained network, initialised from torch's global generator.

        Raises:
            IncompatibleError: the data are token ids.
        """
        flat_size(data, "autoregressive")
        return AutoregressiveDensity(self, data)
