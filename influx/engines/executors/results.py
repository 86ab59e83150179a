"""Results of a task's blocks, handed on once and in order, whoever did them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from influx import interrupts
from influx.engines.executor import Arrays, Finished, Task
from influx.engines.executors.exchange import Exchange
from influx.errors import InfluxError


@dataclass(kw_only=True)
class Results(ABC):
    """One task under way; ``ready`` are the blocks that have results."""

    exchange: Exchange
    task: Task
    finished: Finished
    ready: set[int] = field(default_factory=set)

    @abstractmethod
    def step(self) -> None:
        """Let work go on, and take note of what has results by now; lasts a moment.

        Raises:
            InfluxError: it cannot go on.
        """

    @abstractmethod
    def settle(self) -> None:
        """After an error: take note of what still comes."""

    @abstractmethod
    def again(self, number: int) -> None:
        """Let a block be done once more."""

    @abstractmethod
    def unwanted(self) -> None:
        """Whoever took results takes no more."""

    def go(self) -> Iterator[tuple[int, Arrays]]:
        """Results in order; after an error also those that there are behind it, so that they are saved.

        Raises:
            InfluxError: a block cannot be done, or a signal asked to stop.
        """
        given, count = 0, len(self.task.names)
        try:
            while given < count:
                while given in self.ready:
                    for result in self._hand(given):
                        yield result
                        given += 1
                interrupts.check()
                if given < count:
                    self.step()
        except GeneratorExit:
            self.unwanted()
            raise
        except InfluxError:
            self.settle()
            for number in sorted(k for k in self.ready if k >= given):
                yield from self._hand(number)
            raise

    def _hand(self, number: int) -> Iterator[tuple[int, Arrays]]:
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
