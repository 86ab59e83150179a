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
from influx.learners.torch.moments import Moments
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
ELSEWHERE = (
    "this model was trained elsewhere, where influx cannot train it with another seed; let influx train "
    "(training=default), or attribute each of your models and average their influence"
)
HELD = (
    "the files do not tell the learning rates of all steps: that of each checkpoint is taken to hold until the next "
    "checkpoint, and the first also before it; record the training with influx's recorders, which save all rates"
)
SEVERAL = (
    "several checkpoints, and one was given; give more of the same training, the last one being final, set "
    "estimator.weight=uniform where the sum is over checkpoints, which takes the one, or training.lr and "
    "training.steps to what led to it where that is enough (source with estimator.segments=1)"
)
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
    trained_elsewhere: ClassVar[str] = ELSEWHERE

    @cached_property
    def loaded(self) -> list[Loaded]:
        """The checkpoints, in order of training."""
        return self.source(self.inner)

    @property
    def provides(self) -> frozenset[Need]:
        """What the parameters allow; checkpoints where there are several, or steps, and their learning rates."""
        served = super().provides - {Need.RETRAIN, Need.TRAJECTORY}
        if self.own_task is not None:
            served -= {Need.LINEAR_HEAD}  # its solvers know cross-entropy and squared error
        return served if not self._lacking else served - {Need.CHECKPOINTS}

    @property
    def lacks_moments(self) -> bool:
        """Whether the optimizer remembers something from step to step that came with not all checkpoints.

        Before the first step it remembers nothing.
        """
        return bool(self.optimizer.slots([])) and None in self._moments

    @cached_property
    def _moments(self) -> list[Moments | None]:
        """Of each checkpoint, None where they are not known."""
        needed, found = {*self.optimizer.slots([])}, []
        for one in self.loaded:
            held = one.moments() if needed else None
            enough = held is not None and (needed <= held.slots or (one.step == 0 and one.told))
            found.append(held if enough else None)
        return found

    @property
    def _lacking(self) -> str:
        """What is missing to follow the training, in words, or nothing."""
        leaving = self.loaded[:-1]
        if not leaving:
            return "" if self.loaded[0].rates_known else SEVERAL
        for one in leaving:
            if one.groups:
                return (
                    f"one learning rate for all parameters, and the optimizer's parameter groups had "
                    f"{', '.join(f'{rate:g}' for rate in one.groups)} at step {one.step}; set training.lr to the rate "
                    "to weigh checkpoints by"
                )
        if any(one.rate is None for one in leaving):
            return "the learning rate of every checkpoint, which the files do not tell; set training.lr"
        return ""

    @property
    def _from_start(self) -> bool:
        """Whether the first checkpoint is known to be the initialisation."""
        return len(self.loaded) > 1 and self.loaded[0].told and self.loaded[0].step == 0

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
        told = [[one.step, one.rate, one.digest] for one in self.loaded]
        held = [one.digest for one in self._moments if one is not None]
        return {"checkpoints": told} | ({"moments": held} if held else {})

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
            rates=tuple(one.rate or 0.0 for one in self.loaded),
            before=tuple(one.before for one in self.loaded),
            told=tuple(one.rate for one in self.loaded if one.rate is not None and not one.given),
            from_start=self._from_start,
        )

    def fit(self, data: Data, seed: int, folder: Folder) -> ImportedFitted:
        """Copy the checkpoints into ``folder``, as a training would have left them.

        Raises:
            DataError: one of them cannot be read or is not one of this model.
        """
        recipe, saved = self.recipe(data, seed, 0), folder.sub("checkpoints")
        saved.sweep_temporaries()
        module = self._module(data, seed, 0)
        empty = self.optimizer.slots(list(module.parameters()))
        for one, rate, held in zip(self.loaded, recipe.rates, self._moments, strict=True):
            interrupts.check()
            if not saved.has(parameters_name(one.step)):
                module.load_state_dict(one.read(module))
                slots = {} if held is None else held.read(module, empty)
                save_checkpoint(saved, State(step=one.step, module=module, slots=slots), rate)
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
        return replace(shape, steps=steps[-1], visits=0, saved=steps, state_bytes=0, from_start=self._from_start)


@dataclass(frozen=True, kw_only=True)
class ImportedRecipe(Recipe):
    """The steps at which there are checkpoints, the rates of the steps that leave them and that led to them.

    ``told`` are those of files, not of settings; ``from_start``: the first checkpoint is the initialisation.
    """

    steps: tuple[int, ...]
    rates: tuple[float, ...]
    before: tuple[tuple[float, ...], ...]
    told: tuple[float, ...]
    from_start: bool

    @cached_property
    def schedule(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Rate of every step ``(T,)``, and whether it is known.

        Otherwise it is that of the last checkpoint before the step, or of the first one.
        """
        at = np.searchsorted(self.steps, np.arange(self.total), side="right") - 1
        rates, known = np.asarray(self.rates)[np.maximum(at, 0)], np.zeros(self.total, bool)
        for step, before in zip(self.steps, self.before, strict=True):
            part = slice(step - len(before), step)
            rates[part], known[part] = before, True
        known[[step for step in self.steps if step < self.total]] = True
        return rates, known

    def lr(self, step: int) -> float:
        """Of the update that leaves a step; of the last checkpoint where none does, and where no step is known."""
        return float(self.schedule[0][step]) if 0 <= step < self.total else self.rates[-1]


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
        """``(T,)`` rate of every step, that of the checkpoint before it where it is not known."""
        return self.recipe.schedule[0]

    @property
    def from_start(self) -> bool:
        """Whether the first checkpoint is the initialisation."""
        return self.recipe.from_start

    @property
    def rates_held(self) -> str:
        """What makes rates between checkpoints doubtful, or nothing: one file alone does not show a constant rate."""
        told, (rates, known) = self.recipe.told, self.recipe.schedule
        constant = len(told) != 1 and len({*told, *rates[known].tolist()}) == 1
        return HELD if told and not known.all() and not constant else ""
