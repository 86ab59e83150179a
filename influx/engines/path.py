"""The states that training went through, forwards or backwards, from saved checkpoints by replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from influx import interrupts
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.optimizers import Slots
from influx.learners.torch.sequential import State

STATES_BYTES = 256 << 20  # states of a stretch of training that are held at once on the way back


@dataclass(frozen=True)
class _Snapshot:
    step: int
    tensors: list[Tensor]  # parameters and buffers
    slots: Slots

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.tensors, *(t for ts in self.slots.values() for t in ts)))


@dataclass(frozen=True)
class Path:
    """The recorded training as a sequence of states; state t is what step t (counted from 0) starts from.

    A yielded state is live: its module, one and the same all along, may be run in eval mode, and it changes at the next
    iteration. Every replayed step is held against the record (see ``TorchFitted.onward``).
    """

    fitted: TorchFitted

    def forward(self, first: int, last: int) -> Iterator[State]:
        """States ``first .. last``, the last included; restarts from every checkpoint, so that rounding cannot grow.

        Costs one training from the checkpoint before ``first``.
        """
        state: State | None = None
        for start, end in self._stretches(first, last):
            state = self._at(start, state)
            if start >= first:
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
