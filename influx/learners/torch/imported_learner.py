"""The learner of nets that were trained elsewhere: nothing is trained, checkpoints take the place of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from influx import interrupts
from influx.errors import IncompatibleError
from influx.learners.torch.fitted import TorchFitted, parameters_name, save_checkpoint
from influx.learners.torch.imported import Loaded
from influx.learners.torch.inputs import attached_to, to_tensors
from influx.learners.torch.learner import NETS, TorchLearner
from influx.learners.torch.loading import lies_apart
from influx.learners.torch.sequential import Recipe, State
from influx.learners.torch.tasks import Task, task_for
from influx.learners.torch.training import Batches
from influx.learners.torch.traits import check_trainable
from influx.needs import Need
from influx.planning import NetShape, Pace
from influx.problem import Checkpoint, Cost, Data, Design, Outcomes, Problem
from influx.store import Folder

REMEDIES = {
    Need.RETRAIN: "let influx train (training=default), or leave out what retrains: truth=none and other metrics",
    Need.TRAJECTORY: "let influx train (training=default), or choose what reads checkpoints, as estimator=tracincp",
}
OTHERWISE = "choose an estimator without that need (influx list estimators)"


@dataclass(frozen=True, kw_only=True)
class ImportedLearner(TorchLearner):
    """Takes checkpoints in place of a training: nothing is trained, so nothing can be trained again.

    Attributes:
        source: the checkpoints, given the part of the module that was trained (see ``Imported.loaded``).
        inner: what the model's names begin with inside the module that ``model`` builds.
        own_task: what the outputs mean, where the dataset does not say it.
    """

    source: Callable[[str], list[Loaded]]
    inner: str = ""
    own_task: Task | None = None
    deterministic: ClassVar[bool] = True  # another seed is no other training

    @cached_property
    def loaded(self) -> list[Loaded]:
        """The checkpoints, in order of training."""
        return self.source(self.inner)

    @property
    def provides(self) -> frozenset[Need]:
        """What the parameters allow; checkpoints where there are several with their learning rates."""
        served = super().provides - {Need.RETRAIN, Need.TRAJECTORY}
        if self.own_task is not None:
            served -= {Need.LINEAR_HEAD}  # its solvers know cross-entropy and squared error
        return served if not self._lacking else served - {Need.CHECKPOINTS}

    @property
    def lacks_moments(self) -> bool:
        """Whether the optimizer remembers something from step to step, which parameters alone do not tell."""
        return bool(self.optimizer.slots([]))

    @property
    def _lacking(self) -> str:
        """What is missing to follow the training, in words, or nothing."""
        if len(self.loaded) < 2:
            return "several checkpoints, and one was given; give more of the same training, the last one being final"
        if any(one.rate is None for one in self.loaded[:-1]):
            return "the learning rate of every checkpoint, which the files do not tell; set training.lr"
        return ""

    def missing(self, who: str, needs: frozenset[Need]) -> IncompatibleError:
        """The refusal of an estimator or metric whose ``needs`` are not all served."""
        first = sorted(needs & NETS - self.provides)[0] if needs & NETS - self.provides else sorted(needs)[0]
        if first == Need.CHECKPOINTS:
            return IncompatibleError(f"{who} needs {self._lacking}")
        return IncompatibleError(
            f"{who} needs {first}, which a model that was trained elsewhere does not provide; "
            f"{REMEDIES.get(first, OTHERWISE)}"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this another problem than one with the same settings: the tensors of its checkpoints."""
        return {"checkpoints": [[one.step, one.rate, one.digest] for one in self.loaded]}

    def check(self, data: Data) -> None:
        """Build the module, read the first checkpoint, and run two instances through it.

        Raises:
            IncompatibleError: the model does not take the data.
            DataError: the checkpoint is not one of this model.
        """
        x, y = self.example(data, 2, self.device())
        check_trainable(self.final(data), self.task_of(data), x, y, 3)

    def final(self, data: Data) -> nn.Module:
        """The trained module, in eval mode on its device.

        Raises:
            DataError: the last checkpoint is not one of this model.
        """
        module = self._module(data, 0, 0)
        module.load_state_dict(self.loaded[-1].read(module))
        return module.to(self.device()).eval()

    def task_of(self, data: Data) -> Task:
        """What outputs mean."""
        return self.own_task or task_for(data.task)

    def recipe(self, data: Data, seed: int, order: int) -> ImportedRecipe:
        """What is known of the training: its steps and their rates, no batches."""
        device = self.device()
        apart = lies_apart(data.train, self.dtype, device)
        x, y = to_tensors(data.train, self.dtype, "cpu" if apart else device)
        attached = attached_to(self.model, data, seed)
        rates = [one.rate for one in self.loaded]
        known = tuple(0.0 if rate is None else rate for rate in rates)
        steps = tuple(one.step for one in self.loaded)
        none = np.zeros(0, np.int64)
        return ImportedRecipe(
            task=self.task_of(data),
            optimizer=self.optimizer,
            training=self.training,
            batches=Batches(rows=none, offsets=np.zeros(steps[-1] + 1, np.int64)),
            seed=seed,
            order=order,
            x=x if attached is None else attached.known(x, y),
            y=y.to(device),
            ids=data.train.ids,
            attached=attached,
            apart=apart,
            steps=steps,
            rates=known,
        )

    def fit(self, data: Data, seed: int, folder: Folder) -> ImportedFitted:
        """Copy the checkpoints into ``folder``, as a training would have left them.

        Raises:
            DataError: one of them cannot be read or is not one of this model.
        """
        recipe, saved = self.recipe(data, seed, 0), folder.sub("checkpoints")
        saved.sweep_temporaries()
        module = self._module(data, seed, 0)
        for one, rate in zip(self.loaded, recipe.rates, strict=True):
            interrupts.check()
            if not saved.has(parameters_name(one.step)):
                module.load_state_dict(one.read(module))
                save_checkpoint(saved, State(step=one.step, module=module, slots={}), rate)
        return ImportedFitted(folder, lambda init: self._module(data, seed, init), recipe)

    def retrain(
        self, data: Data, seed: int, design: Design, start: nn.Module | None = None
    ) -> tuple[Outcomes, Outcomes]:
        """Refused.

        Raises:
            IncompatibleError: always.
        """
        raise self.missing("retraining", frozenset({Need.RETRAIN}))

    def block_size(self, data: Data) -> int:
        """One: nothing is retrained."""
        return 1

    def cost(self, data: Data, models: int) -> Cost:
        """Reading the checkpoints."""
        size = sum(p.numel() * p.element_size() for p in self._module(data, 0, 0).parameters())
        count = len(self.loaded)
        return Cost(flops=0.0, bytes=2.0 * size, formula=f"{count} checkpoints of {size / 1e6:.3g} MB are read")

    def pace(self, problem: Problem) -> Pace:
        """Nothing is trained."""
        return Pace(training=0.0, model=0.0, note="trained elsewhere")

    def net_shape(self, problem: Problem) -> NetShape:
        """Sizes of the net, and the steps of its checkpoints."""
        shape, steps = super().net_shape(problem), tuple(one.step for one in self.loaded)
        return replace(shape, steps=steps[-1], visits=0, saved=steps, state_bytes=0)


@dataclass(frozen=True, kw_only=True)
class ImportedRecipe(Recipe):
    """The steps at which there are checkpoints and the rates of the steps that leave them."""

    steps: tuple[int, ...]
    rates: tuple[float, ...]

    def lr(self, step: int) -> float:
        """That of the last checkpoint at or before the step; of the first one before it."""
        return self.rates[max(int(np.searchsorted(self.steps, step, side="right")) - 1, 0)]


@dataclass(frozen=True)
class ImportedFitted(TorchFitted):
    """A net that was trained elsewhere: its checkpoints, and no record of the steps between them."""

    recipe: ImportedRecipe
    recorded: ClassVar[bool] = False

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """As they were given, in order of training."""
        folder, pairs = self.folder.path / "checkpoints", zip(self.recipe.steps, self.recipe.rates, strict=True)
        return [
            Checkpoint(step=step, lr=(rate,), path=folder / parameters_name(step))
            for step, rate in pairs
            if self.until is None or step <= self.until
        ]

    @cached_property
    def learning_rates(self) -> NDArray[np.float64]:
        """``(T,)`` rate of every step, that of the checkpoint before it."""
        rates = np.asarray(self.recipe.rates)
        at = np.searchsorted(self.recipe.steps, np.arange(self.recipe.total), side="right") - 1
        return rates[np.maximum(at, 0)]
