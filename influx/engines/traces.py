"""Test losses at every step of trainings that differ in the order of their batches alone, kept with the problem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from influx import interrupts, progress, reads
from influx.engines.stored import save_array
from influx.learners.torch.fitted import TorchFitted, chunks
from influx.learners.torch.sequential import Recipe, State, advance
from influx.problem import Split
from influx.store import Folder, content_hash

FOLDER = "traces"


@dataclass(frozen=True)
class Traces:
    """Trainings of one problem from its own initialisation, numbered by their order; 0 is the problem's own.

    Each is one file below the problem's folder, made when first asked for: training goes on with the next after a stop.
    """

    fitted: TorchFitted
    test: Split

    def losses(self, count: int) -> list[NDArray[np.float64]]:
        """``(T + 1, m)`` risk of every test instance before each step and at the end, for the first ``count`` orders.

        They are read from disk when looked at.
        """
        folder = self.fitted.folder.sub(FOLDER)
        names = [f"{self._tested()}_{order:04d}.npy" for order in range(count)]
        with folder.locked(what="traces"):
            folder.sweep_temporaries()
            missing = [order for order, name in enumerate(names) if not folder.has(name)]
            with progress.task("training in other orders", len(missing) * self.fitted.recipe.total) as done:
                for order in missing:
                    self._record(folder, names[order], order, done)
        return [np.load(reads.note(folder / name, stored=True), mmap_mode="r", allow_pickle=False) for name in names]

    def _record(self, folder: Folder, name: str, order: int, done: progress.Advance) -> None:
        rows = []
        for found in self._trained(order):
            rows.append(found)
            done(len(rows) > 1)
            interrupts.check()
        save_array(folder, name, np.stack(rows))

    def recipe(self, order: int) -> Recipe:
        """The training with that order."""
        own = self.fitted.recipe
        if order == own.order:
            return own
        return replace(own, order=order, batches=own.training.batches(len(own.ids), own.seed, order))

    def _trained(self, order: int) -> Iterator[NDArray[np.float64]]:
        """``(m,)`` risks, step after step."""
        recipe, module = self.recipe(order), self.fitted.build(0).to(self.fitted.device)
        x, y = self.fitted.tensors(self.test)
        exact = y.double() if y.is_floating_point() else y

        @torch.no_grad()
        def risks() -> NDArray[np.float64]:
            module.eval()
            outputs = torch.cat([module(chunk) for chunk in chunks(x, draws=recipe.draws)])
            return np.asarray(recipe.task.loss(outputs.double(), exact).cpu().numpy())

        yield risks()
        state = State(step=0, module=module, slots=recipe.optimizer.slots(list(module.parameters())))
        for _ in advance(recipe, state, recipe.total, None, "full"):
            yield risks()

    def _tested(self) -> str:
        """Hash of the test instances and of the draws that their risks are taken with."""
        return content_hash([repr(self.fitted.recipe.attached), self.test.fingerprint()], 16)
