"""Derivatives of the risk in the margins of many boosted ensembles at once.

The formulas are those of ``Objective`` in ``influx.engines.forest``; here g and h come from one pass over tensors
``(C, n, ...)``, outputs before instances before ensembles, and derivatives go through all outputs of an instance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from influx.engines.forest import Labels, Objective


@dataclass(frozen=True)
class Losses:
    """The risk of instances with labels ``y`` (n,) as a function of margins ``(C, n, ...)``, float64."""

    objective: Objective
    y: Tensor
    outputs: int
    newton: bool

    @classmethod
    def of(cls, objective: Objective, y: Labels, outputs: int, newton: bool) -> Losses:
        """From a forest's labels."""
        wanted = torch.float64 if objective.name == "squared_error" else torch.int64
        return cls(objective, torch.from_numpy(y.copy()).to(wanted), outputs, newton)

    def take(self, rows: Tensor) -> Losses:
        """Of some instances."""
        return replace(self, y=self.y[rows])

    def at(self, margins: Tensor, cross: bool = True) -> Slopes:
        """Derivatives at margins; without ``cross`` those in an instance's other outputs are left out."""
        name = self.objective.name
        if name == "squared_error":
            return Slopes(None, margins - self._like(self.y, margins), torch.ones_like(margins), False, self.newton)
        if name == "logistic":
            p = torch.sigmoid(margins)
            g = p - self._like((self.y == 1).to(p), p)
        else:
            p = torch.softmax(margins, 0)
            g = p - self._like(self._own.to(p), p)
        h = p * (1 - p) if self.newton else torch.ones_like(p)
        return Slopes(p, g, h, cross and name == "softmax", self.newton)

    def risk(self, margins: Tensor) -> Tensor:
        """``(n, ...)`` risk."""
        name = self.objective.name
        if name == "squared_error":
            return 0.5 * (margins - self._like(self.y, margins)).square()[0]
        if name == "logistic":
            sign = torch.where(self.y == 1, 1.0, -1.0).to(margins)
            return -logsigmoid(margins * self._like(sign, margins))[0]
        own = margins[self.y, torch.arange(len(self.y))]
        return margins.logsumexp(0) - own

    @property
    def _own(self) -> Tensor:
        """``(C, n)`` which output is the label's."""
        return self.y[None] == torch.arange(self.outputs)[:, None]

    @staticmethod
    def _like(values: Tensor, margins: Tensor) -> Tensor:
        """``(n,)`` or ``(C, n)`` values beside margins."""
        lead = values if values.ndim == 2 else values[None]
        return lead.reshape(*lead.shape, *(1,) * (margins.ndim - 2))


@dataclass(frozen=True)
class Slopes:
    """First derivatives g and diagonal second derivatives h ``(C, n, ...)``; p are probabilities, None for values."""

    p: Tensor | None
    g: Tensor
    h: Tensor
    cross: bool
    newton: bool

    def along(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of g and h when margins move by ``moved`` (C, n, ...), to first order."""
        if self.p is None:
            return moved, torch.zeros_like(moved)
        first = self._bend(moved)
        return first, (1 - 2 * _beside(self.p, moved)) * first if self.newton else torch.zeros_like(first)

    def pull_back(self, margins: Tensor, first: Tensor, value: Tensor) -> None:
        """The transpose of ``along`` for the change of g + value · h, added to ``margins`` (C, n, k).

        ``first`` (C, n, k) are weights of that change, which are overwritten; ``value`` is (C, n, 1).
        """
        if self.p is None:
            margins += first
            return
        p = self.p[..., None]
        bent = 1 + (1 - 2 * p) * value if self.newton else torch.ones_like(value)
        if self.cross:
            first.mul_(bent)
            margins.addcmul_(p, first.sub_((p * first).sum(0)))
        else:
            margins.addcmul_(first, p * (1 - p) * bent)

    def _bend(self, moved: Tensor) -> Tensor:
        """The Hessian of each instance's risk times ``moved``."""
        assert self.p is not None
        p = _beside(self.p, moved)
        if self.cross:
            return p * (moved - (p * moved).sum(0))
        return p * (1 - p) * moved


def _beside(values: Tensor, moved: Tensor) -> Tensor:
    return values.reshape(*values.shape, *(1,) * (moved.ndim - values.ndim))
