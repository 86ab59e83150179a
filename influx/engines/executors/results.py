"""Results of a task's blocks, handed on once and in order, whoever did them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from influx.engines.executor import Arrays, Finished, Task
from influx.engines.executors.exchange import Exchange


@dataclass(kw_only=True)
class Results(ABC):
    """One task under way; ``ready`` are the blocks that have results."""

    exchange: Exchange
    task: Task
    finished: Finished
    ready: set[int] = field(default_factory=set)

    @abstractmethod
    def again(self, number: int) -> None:
        """Let a block be done once more."""

    def hand(self, number: int) -> Iterator[tuple[int, Arrays]]:
        """The result of a block, whose file is then removed; nothing where it was damaged."""
        name = self.task.names[number]
        arrays = self.exchange.read(name)
        if arrays is None:
            self.ready.discard(number)
            self.again(number)
            return
        yield number, arrays
        if not self.task.keep:
            self.exchange.forget(name)

    def rest(self, first: int) -> Iterator[tuple[int, Arrays]]:
        """What has results from block ``first`` on: saved before an error ends the task."""
        for number in sorted(k for k in self.ready if k >= first):
            yield from self.hand(number)
