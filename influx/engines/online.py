"""Nets trained in one pass, an instance or a few at a time, many nets in different orders at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influx import interrupts
from influx.errors import IncompatibleError, NumericalError
from influx.learners.torch.fitted import TorchFitted, chunks
from influx.learners.torch.traits import traits_of
from influx.problem import Split

Array = NDArray[np.float64]
Stacked = dict[str, Tensor]  # parameters with a leading axis of nets
CANDIDATES = tuple(10 ** (-half / 2) for half in range(2, 10))  # learning rates of Ghorbani & Zou 2019


@dataclass
class Online:
    """Passes of plain gradient descent over the training split, without weight decay, from fresh initialisations.

    Attributes:
        fitted: the problem's net, task and device.
        train: what is learned from.
        test: whose risks are watched.
        batch: instances of a step.
        inits: initialisations that take turns; the first is that of the trained model.
    """

    fitted: TorchFitted
    train: Split
    test: Split
    batch: int
    inits: int

    def __post_init__(self) -> None:
        """Build the nets.

        Raises:
            IncompatibleError: their parameters cannot be stacked.
        """
        self.modules = [self.fitted.build(init).to(self.fitted.device).eval() for init in range(self.inits)]
        self.x, self.y = self.fitted.tensors(self.train)
        check_stackable(self.modules[0], self.fitted, self.x[:2], self.y[:2])
        self.passed = 0

    @property
    def parameters(self) -> int:
        """Numbers in one net."""
        return sum(p.numel() for p in self.modules[0].parameters())

    def falls(self, orders: NDArray[np.int64], lr: float) -> Array:
        """``(P, n, m + 1)`` fall of each test risk at the step of each instance, and their mean in the last column.

        A step of several instances shares its fall equally. Orders (P, n) go on taking turns in initialisations.

        Raises:
            NumericalError: a risk is not finite.
        """
        start = self._start(len(orders))
        before, rows = self._risks(start, self.test), None
        for positions, params in self._steps(start, orders, lr):
            interrupts.check()
            after = self._risks(params, self.test)
            if not np.isfinite(after).all():
                raise NumericalError(
                    f"a pass with learning rate {lr:g} diverged; lower estimator.lr or set estimator.lr=search"
                )
            rows = np.empty((*orders.shape, after.shape[1])) if rows is None else rows
            taken = orders[:, positions]
            rows[np.arange(len(orders))[:, None], taken] = ((before - after) / taken.shape[1])[:, None]
            before = after
        assert rows is not None
        return rows

    def best_rate(self, orders: NDArray[np.int64]) -> float:
        """The candidate with the least mean plus standard deviation of the training risk after a pass over each order.

        Raises:
            NumericalError: all diverge.
        """
        scores = []
        for lr in CANDIDATES:
            self.passed = 0
            *_, (_, params) = self._steps(self._start(len(orders)), orders, lr)
            interrupts.check()
            risk = self._risks(params, self.train)[:, -1]
            scores.append(risk.mean() + risk.std() if np.isfinite(risk).all() else np.inf)
        self.passed = 0
        if not np.isfinite(scores).any():
            raise NumericalError("passes with all learning rates diverged; set estimator.lr to a small number")
        return CANDIDATES[int(np.argmin(scores))]

    def _start(self, count: int) -> Stacked:
        which = (self.passed + np.arange(count)) % self.inits
        self.passed += count
        named = [dict(module.named_parameters()) for module in self.modules]
        return {name: torch.stack([named[init][name].detach() for init in which]) for name in named[0]}

    @torch.no_grad()
    def _steps(self, params: Stacked, orders: NDArray[np.int64], lr: float) -> Iterator[tuple[slice, Stacked]]:
        """Positions of a step and the parameters after it."""
        module, task = self.modules[0], self.fitted.task

        def loss(params: Stacked, x: Tensor, y: Tensor) -> Tensor:
            return task.loss(functional_call(module, params, (x,)), y).mean()

        gradient = vmap(grad(loss))
        for first in range(0, orders.shape[1], self.batch):
            positions = slice(first, first + self.batch)
            rows = torch.from_numpy(orders[:, positions]).to(self.x.device)
            grads = gradient(params, self.x[rows], self.y[rows])
            params = {name: p - lr * grads[name] for name, p in params.items()}
            yield positions, params

    @torch.no_grad()
    def _risks(self, params: Stacked, split: Split) -> Array:
        """``(P, m + 1)`` in float64."""
        x, y = self.fitted.tensors(split)
        forward = vmap(lambda p, part: functional_call(self.modules[0], p, (part,)), in_dims=(0, None))
        count = len(next(iter(params.values())))
        outputs = torch.cat([forward(params, part) for part in chunks(x, count, self.fitted.recipe.draws)], dim=1)
        exact = y.double() if y.is_floating_point() else y
        risks = self.fitted.task.loss(outputs.double(), exact).cpu().numpy()
        return np.concatenate([risks, risks.mean(axis=1, keepdims=True)], axis=1)


def check_stackable(module: nn.Module, fitted: TorchFitted, x: Tensor, y: Tensor) -> None:
    """Refuse a net of which several cannot be trained as one.

    Raises:
        IncompatibleError: it mixes instances, is random, or torch.func cannot map over its parameters.
    """
    if not traits_of(module, fitted.task, x, y).stackable:
        raise IncompatibleError(
            "nets with batch normalisation, dropout or code that depends on values cannot take steps of one instance "
            "side by side; use norm=group, dropout=0 or estimator=tmc_shapley"
        )
