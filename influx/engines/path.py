"""The states that training went through, forwards or backwards, from saved checkpoints by replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from influx import interrupts
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.optimizers import SGD, Slots
from influx.learners.torch.sequential import Recipe, State
from influx.planning import Prospect
from influx.problem import Split

STATES_BYTES = 256 << 20  # states of a stretch of training that are held at once on the way back
ROUNDED = (
    "the training's passes were in bfloat16 (training.precision): the states gone through are its own, gradients there "
    "are computed in float32 and differ from those that made its steps by rounding"
)


@dataclass(frozen=True)
class _Snapshot:
    step: int
    tensors: list[Tensor]  # parameters and buffers
    slots: Slots

    @property
    def bytes(self) -> int:
        return sum(
            t.numel() * t.element_size() for t in (*self.tensors, *(t for ts in self.slots.values() for t in ts))
        )


def recorded(prospect: Prospect) -> Recipe:
    """The training that a run will go through.

    Raises:
        IncompatibleError: the learner is no net.
    """
    learner = prospect.problem.learner
    if not isinstance(learner, TorchLearner):
        raise IncompatibleError(f"{prospect.who} goes through training steps; choose a model such as model=mlp")
    return learner.recipe(prospect.problem.data, prospect.problem.seed, 0)


def check_batches(recipe: Recipe, split: str) -> int:
    """Instances of the largest batch.

    Raises:
        ConfigError: there are several, which ``split`` "error" refuses.
    """
    largest = int(np.diff(recipe.batches.offsets).max())
    if largest > 1 and split == "error":
        raise ConfigError(
            f"estimator.batch_split=error needs training.batch_size=1, the training has batches of {largest}; "
            "change one of them"
        )
    return largest


def start_of_last(recipe: Recipe, epochs: int | None) -> int:
    """First step of the last ``epochs`` epochs; 0 for None."""
    training = recipe.training
    return 0 if epochs is None else max(0, training.epochs - epochs) * (recipe.total // training.epochs)


def check_sgd(recipe: Recipe, who: str, other: str) -> None:
    """Refuse a training by another optimizer than SGD.

    Raises:
        IncompatibleError: naming the estimator that takes it.
    """
    if not isinstance(recipe.optimizer, SGD):
        raise IncompatibleError(
            f"estimator={who} is about SGD, the model is trained with {type(recipe.optimizer).__name__}; "
            f"use estimator={other} or optimizer=sgd"
        )


def check_steps(recipe: Recipe) -> None:
    """Refuse a training whose steps are no functions of parameters and instance weights.

    Raises:
        IncompatibleError: steps draw random numbers, mix the instances of a batch, or are in lower precision.
    """
    if recipe.random or recipe.coupled:
        what = "dropout or other randomness" if recipe.random else "batch normalisation in training mode"
        remedy = "dropout=0" if recipe.random else "norm=group"
        raise IncompatibleError(
            f"unrolling differentiates every training step, which this model's {what} does not allow; "
            f"use {remedy} in the model or an estimator that does not unroll"
        )
    if recipe.training.precision != "model":
        raise IncompatibleError(
            f"unrolling differentiates every training step, which training.precision={recipe.training.precision} "
            "rounds: the derivative would be of another training; use training.precision=model or an estimator that "
            "does not unroll"
        )


@dataclass(frozen=True)
class Path:
    """The recorded training as a sequence of states; state t is what step t (counted from 0) starts from.

    A yielded state is live: its module, one and the same all along, may be run in eval mode, and it changes at the next
    iteration. Every replayed step is held against the record (see ``TorchFitted.onward``).
    """

    fitted: TorchFitted

    @property
    def total(self) -> int:
        """Steps of the training."""
        return self.fitted.recipe.total

    def rows_in(self, split: Split) -> Tensor:
        """Row in ``split`` of each instance that the training saw, -1 for those that it lacks."""
        where = {int(i): row for row, i in enumerate(split.ids)}
        return torch.tensor([where.get(int(i), -1) for i in self.fitted.recipe.ids])

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the training, inputs and targets of the step that leaves state ``step``."""
        recipe = self.fitted.recipe
        rows = torch.from_numpy(recipe.batches[step]).to(recipe.device)
        return rows, recipe.inputs(rows, step), recipe.y[rows]

    def forward(self, first: int, last: int) -> Iterator[State]:
        """States ``first .. last``, the last included; restarts from every checkpoint, so that rounding cannot grow.

        Costs one training from the checkpoint before ``first``.
        """
        state: State | None = None
        for start, end in self._stretches(first, last):
            state = self._at(start, state)
            if first <= start < last:
                yield self._ready(state)
            for now in self.fitted.onward(state, end - 1):
                interrupts.check()
                if now.step >= first:
                    yield self._ready(now)
        assert state is not None
        if last in self._saved:
            state = self._at(last, state)
        else:
            for _ in self.fitted.onward(state, last):
                pass
        yield self._ready(state)

    def backward(self, first: int, last: int) -> Iterator[State]:
        """States ``last - 1`` down to ``first``.

        A stretch between checkpoints is held in memory when it fits in ``STATES_BYTES``, otherwise halved as often as
        needed: O(log T) more states and O(log T) times the forward work (tree checkpointing, Griewank 1992).
        """
        state: State | None = None
        for start, end in reversed(self._stretches(first, last)):
            state = self._at(start, state)
            for now in self._unwind(state, _taken(state), end):
                interrupts.check()
                if now.step >= first:
                    yield now

    @property
    def _saved(self) -> list[int]:
        return [c.step for c in self.fitted.checkpoints]

    def _stretches(self, first: int, last: int) -> list[tuple[int, int]]:
        """From checkpoint to checkpoint, covering ``first .. last``."""
        start = max(s for s in self._saved if s <= first)
        return list(pairwise([start, *(s for s in self._saved if start < s < last), last]))

    def _at(self, step: int, state: State | None) -> State:
        """The saved state after ``step`` updates; in the module of ``state``, whose users may hold on to it."""
        saved = self.fitted.state(step)
        if state is None:
            return saved
        _restore(state, _taken(saved))
        return state

    def _unwind(self, state: State, origin: _Snapshot, end: int) -> Iterator[State]:
        """States ``end - 1`` down to that of ``origin``, all in ``state``, whose optimizer state is replaced."""
        _restore(state, origin)
        if end - origin.step <= max(STATES_BYTES // origin.bytes, 2):
            kept = [origin, *(_taken(now) for now in self.fitted.onward(state, end - 1))]
            for snapshot in reversed(kept):
                _restore(state, snapshot)
                yield self._ready(state)
            return
        middle = (origin.step + end) // 2
        for _ in self.fitted.onward(state, middle):
            interrupts.check()
        yield from self._unwind(state, _taken(state), end)
        yield from self._unwind(state, origin, middle)

    @staticmethod
    def _ready(state: State) -> State:
        state.module.eval()
        return state


def _tensors(state: State) -> list[Tensor]:
    return [*state.module.parameters(), *state.module.buffers()]


@torch.no_grad()
def _taken(state: State) -> _Snapshot:
    # a step makes new slots and leaves the old ones
    return _Snapshot(state.step, [t.detach().clone() for t in _tensors(state)], dict(state.slots))


@torch.no_grad()
def _restore(state: State, snapshot: _Snapshot) -> None:
    for tensor, value in zip(_tensors(state), snapshot.tensors, strict=True):
        tensor.copy_(value)
    state.slots, state.step = dict(snapshot.slots), snapshot.step
