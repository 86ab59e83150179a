"""One more optimizer step on a single training instance, from the end of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from influx.learners.torch.fitted import TorchFitted, chunks
from influx.learners.torch.optimizers import Slots
from influx.learners.torch.sequential import clip, decays
from influx.problem import Split


@dataclass(frozen=True)
class OneStep:
    """Continues the training of a net by the step that its optimizer would take on one instance.

    The step starts from the optimizer's own memory, decays weights and clips as in training; the gradient is taken in
    eval mode, since batch statistics of one instance do not exist.
    """

    fitted: TorchFitted

    @property
    def optimizer(self) -> str:
        """What takes the step, in words."""
        return self.fitted.recipe.unlike_sgd or "SGD"

    @property
    def last_rate(self) -> float:
        """Learning rate of the last step of training."""
        return self.fitted.recipe.lr(self.fitted.recipe.total - 1)

    def losses(
        self, train: Split, test: Split, wanted: NDArray[np.bool_], lr: float
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
        """Per training row that is wanted for any test instance: the row, these columns, their losses after the step.

        Args:
            train: instances to step on.
            test: instances whose losses are asked for.
            wanted: ``(n_train, n_test)`` the pairs asked for.
            lr: learning rate of the step.
        """
        x, y = self.fitted.tensors(train)
        x_test, y_test = self.fitted.tensors(test)
        for row in np.flatnonzero(wanted.any(axis=1)).tolist():
            columns = np.flatnonzero(wanted[row])
            moved, index = self._moved(x[row : row + 1], y[row : row + 1], lr), torch.from_numpy(columns)
            index = index.to(x_test.device)
            yield row, columns, self._losses(moved, x_test[index], y_test[index])

    @cached_property
    def _module(self) -> nn.Module:
        return self.fitted.model()

    @cached_property
    def _slots(self) -> Slots:
        return self.fitted.state(self.fitted.recipe.total).slots

    def _moved(self, x: Tensor, y: Tensor, lr: float) -> dict[str, Tensor]:
        """Parameters after the step."""
        recipe, named = self.fitted.recipe, dict(self._module.named_parameters())
        params = list(named.values())
        loss = recipe.task.loss(self._module(x), y).sum()
        found = torch.autograd.grad(loss, params, allow_unused=True)
        grads = [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
        if recipe.training.clip_norm is not None:
            grads, _ = clip(grads, recipe.training.clip_norm)
        decay = decays(recipe.optimizer, [p.shape for p in params])
        old = [p.detach() for p in params]
        new, _ = recipe.optimizer.step(old, grads, self._slots, [lr] * len(old), decay, recipe.total + 1)
        return dict(zip(named, new, strict=True))

    @torch.no_grad()
    def _losses(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> NDArray[np.float64]:
        parts = chunks(x, draws=self.fitted.recipe.draws)
        outputs = torch.cat([functional_call(self._module, parameters, (chunk,)) for chunk in parts])
        exact = y.double() if y.is_floating_point() else y
        losses: NDArray[np.float64] = self.fitted.task.loss(outputs.double(), exact).cpu().numpy()
        return losses
