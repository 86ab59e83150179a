"""Which files of an outputs folder are read: whoever reads models, retrained blocks or what is stored tells it here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_listening: list[set[Path]] = []


def note(path: Path) -> Path:
    """``path``, which is read now."""
    for found in _listening:
        found.add(path)
    return path


@contextmanager
def noted() -> Iterator[set[Path]]:
    """The files that are read inside the block, in this process."""
    found: set[Path] = set()
    _listening.append(found)
    try:
        yield found
    finally:
        _listening[:] = [one for one in _listening if one is not found]
