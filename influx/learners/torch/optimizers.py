"""Optimizers as pure functions of tensors: one implementation for training, replay, retraining and unrolling.

Every tensor may carry a leading axis of models. The updates are those of ``torch.optim`` (tested against it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from influx.errors import ConfigError

Tensors = list[Tensor]
Slots = dict[str, Tensors]
DecayOn = Literal["all", "weights"]
Number = TypeVar("Number", float, Tensor)


class Optimizer(Protocol):
    """One functional step. ``decay`` gives each tensor's weight decay (0 for tensors that are not decayed)."""

    @property
    def lr(self) -> float:
        """Base learning rate, before the schedule."""
        ...

    @property
    def weight_decay(self) -> float:
        """Coefficient of the L2 regulariser (wd/2)·|θ|²; AdamW decouples it."""
        ...

    @property
    def decay_on(self) -> DecayOn:
        """Which tensors are decayed: all, or only those with more than one dimension."""
        ...

    def slots(self, params: Sequence[Tensor]) -> Slots:
        """State before the first step."""
        ...

    def step(
        self, params: Tensors, grads: Tensors, slots: Slots, lr: Sequence[float], decay: Sequence[float], t: int
    ) -> tuple[Tensors, Slots]:
        """Parameters and state after step ``t`` (counted from 1) with one learning rate per tensor."""
        ...


def _zeros(params: Sequence[Tensor]) -> Tensors:
    return [torch.zeros_like(p) for p in params]


def _check(lr: float, weight_decay: float) -> None:
    if not (lr > 0 and math.isfinite(lr)):
        raise ConfigError(f"optimizer.lr must be positive and finite, got {lr}; try 0.1 for sgd, 0.001 for adam")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ConfigError(f"optimizer.weight_decay must be finite and not negative, got {weight_decay}; use 0 for none")


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum, dampening, Nesterov's variant and weight decay."""

    lr: float = 0.1
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_on: DecayOn = "all"

    def __post_init__(self) -> None:
        """Check ranges."""
        _check(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"optimizer.momentum must be in [0, 1), got {self.momentum}; 0.9 is usual")
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ConfigError(
                "optimizer.nesterov needs optimizer.momentum > 0 and optimizer.dampening=0, "
                f"got momentum={self.momentum}, dampening={self.dampening}; change one of them"
            )

    def slots(self, params: Sequence[Tensor]) -> Slots:
        """A momentum buffer per tensor."""
        return {"momentum": _zeros(params)} if self.momentum else {}

    def step(
        self, params: Tensors, grads: Tensors, slots: Slots, lr: Sequence[float], decay: Sequence[float], t: int
    ) -> tuple[Tensors, Slots]:
        """θ ← θ - lr·u with u the (Nesterov) momentum of g + wd·θ; the first step is not dampened."""
        grads = [g + wd * p if wd else g for p, g, wd in zip(params, grads, decay, strict=True)]
        if not self.momentum:
            return [p - a * g for p, g, a in zip(params, grads, lr, strict=True)], slots
        fresh = 1.0 if t == 1 else 1.0 - self.dampening
        buffers = [self.momentum * m + fresh * g for m, g in zip(slots["momentum"], grads, strict=True)]
        if self.nesterov:
            updates = [g + self.momentum * m for g, m in zip(grads, buffers, strict=True)]
        else:
            updates = buffers
        return [p - a * u for p, u, a in zip(params, updates, lr, strict=True)], {"momentum": buffers}

    def pull(self, moved: Number, memory: Number, lr: float, t: int) -> tuple[Number, Number]:
        """The step backwards: derivatives with respect to g + wd·θ and to the momentum before step ``t``.

        Given those with respect to the parameters (``moved``) and the momentum (``memory``) after it.
        """
        update = -lr * moved
        if not self.momentum:
            return update, memory
        fresh = 1.0 if t == 1 else 1.0 - self.dampening
        buffer = memory + (self.momentum * update if self.nesterov else update)
        gradient = fresh * buffer + update if self.nesterov else fresh * buffer
        return gradient, self.momentum * buffer


def _moments(grads: Tensors, slots: Slots, beta1: float, beta2: float) -> Slots:
    first = [beta1 * m + (1 - beta1) * g for m, g in zip(slots["first"], grads, strict=True)]
    second = [beta2 * v + (1 - beta2) * g * g for v, g in zip(slots["second"], grads, strict=True)]
    return {"first": first, "second": second}


def _adam_update(m: Tensor, v: Tensor, beta1: float, beta2: float, eps: float, t: int) -> Tensor:
    denominator: Tensor = v.sqrt() / (1 - beta2**t) ** 0.5 + eps
    return m / denominator / (1 - beta1**t)


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam; weight decay enters the gradient (L2). Kingma & Ba 2015."""

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_on: DecayOn = "all"

    def __post_init__(self) -> None:
        """Check ranges."""
        _check(self.lr, self.weight_decay)
        _check_betas(self.beta1, self.beta2)

    def slots(self, params: Sequence[Tensor]) -> Slots:
        """First and second moments."""
        return {"first": _zeros(params), "second": _zeros(params)}

    def step(
        self, params: Tensors, grads: Tensors, slots: Slots, lr: Sequence[float], decay: Sequence[float], t: int
    ) -> tuple[Tensors, Slots]:
        """θ ← θ - lr·m̂ / (√v̂ + eps)."""
        grads = [g + wd * p if wd else g for p, g, wd in zip(params, grads, decay, strict=True)]
        slots = _moments(grads, slots, self.beta1, self.beta2)
        pairs = zip(slots["first"], slots["second"], strict=True)
        updates = [_adam_update(m, v, self.beta1, self.beta2, self.eps, t) for m, v in pairs]
        return [p - a * u for p, u, a in zip(params, updates, lr, strict=True)], slots


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay. Loshchilov & Hutter 2019."""

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    decay_on: DecayOn = "all"

    def __post_init__(self) -> None:
        """Check ranges."""
        _check(self.lr, self.weight_decay)
        _check_betas(self.beta1, self.beta2)

    def slots(self, params: Sequence[Tensor]) -> Slots:
        """First and second moments."""
        return {"first": _zeros(params), "second": _zeros(params)}

    def step(
        self, params: Tensors, grads: Tensors, slots: Slots, lr: Sequence[float], decay: Sequence[float], t: int
    ) -> tuple[Tensors, Slots]:
        """θ ← (1 - lr·wd)·θ - lr·m̂ / (√v̂ + eps)."""
        slots = _moments(grads, slots, self.beta1, self.beta2)
        pairs = zip(slots["first"], slots["second"], strict=True)
        updates = [_adam_update(m, v, self.beta1, self.beta2, self.eps, t) for m, v in pairs]
        shrunk = [p * (1 - a * wd) if wd else p for p, a, wd in zip(params, lr, decay, strict=True)]
        return [p - a * u for p, u, a in zip(shrunk, updates, lr, strict=True)], slots


def _check_betas(beta1: float, beta2: float) -> None:
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ConfigError(
            f"optimizer.beta1 and optimizer.beta2 must be in [0, 1), got {beta1} and {beta2}; 0.9 and 0.999 are usual"
        )
