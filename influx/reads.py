"""Which files of an outputs folder are read: whoever reads models, retrained blocks or what is stored tells it here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Noted:
    """Files that were ``read``; of those beside a problem (projected gradients, traces), which were read and written.

    Attributes:
        read: all of them.
        stored: those beside a problem.
        written: files beside a problem that were written.
    """

    read: set[Path] = field(default_factory=set)
    stored: set[Path] = field(default_factory=set)
    written: set[Path] = field(default_factory=set)

    @property
    def found(self) -> set[Path]:
        """Files beside a problem that were read as they had been before."""
        return self.stored - self.written


_listening: list[Noted] = []


def note(path: Path, stored: bool = False) -> Path:
    """``path``, which is read now; ``stored`` beside a problem by whichever run came first."""
    for noted in _listening:
        noted.read.add(path)
        if stored:
            noted.stored.add(path)
    return path


def wrote(path: Path) -> None:
    """``path`` is stored beside a problem now."""
    for noted in _listening:
        noted.written.add(path)


@contextmanager
def noted() -> Iterator[Noted]:
    """The files that are read inside the block, in this process."""
    found = Noted()
    _listening.append(found)
    try:
        yield found
    finally:
        _listening[:] = [one for one in _listening if one is not found]
