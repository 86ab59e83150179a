"""Progress reporting without a user interface: engines report, whoever runs them decides what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Advance = Callable[[int], None]
Factory = Callable[[str, int], AbstractContextManager[Advance]]


def _silent(description: str, total: int) -> AbstractContextManager[Advance]:
    del description, total
    return nullcontext(lambda count: None)


_factory: Factory = _silent


def task(description: str, total: int) -> AbstractContextManager[Advance]:
    """Open a unit of work of ``total`` steps; call the yielded function with the steps done."""
    return _factory(description, total)


@contextmanager
def shown_by(factory: Factory) -> Iterator[None]:
    """Let ``factory`` show all progress inside the block."""
    global _factory
    before, _factory = _factory, factory
    try:
        yield
    finally:
        _factory = before
