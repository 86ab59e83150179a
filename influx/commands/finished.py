"""The finished runs that folders on the command line stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from influx.commands.outputs import RunState
from influx.commands.status import states
from influx.errors import DataError

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

NAMED = 3  # runs named in a sentence


def finished(places: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    """Records of all finished runs in ``places``, each once and in order, and sentences about those left out.

    Raises:
        DataError: a place holds no runs, none of them is finished, or one is damaged.
    """
    from influx.reporting.record import RunRecord

    found: dict[Path, RunState] = {}
    for place in places:
        for state in _states(place):
            found.setdefault(state.folder.resolve(), state)
    done = [state for state in found.values() if state.status == "done"]
    others = [state for state in found.values() if state.status != "done"]
    where = " ".join(map(str, places))
    if not done:
        told = _told(others) if others else "there is none"
        raise DataError(f"a finished run is needed, {told} in {where}; influx status {places[0]} says more")
    notes = [f"left out: {_told(others)}; the same command as before finishes them"] if others else []
    return [RunRecord.load(state.folder) for state in done], notes


def _states(place: Path) -> list[RunState]:
    if not place.is_dir():
        raise DataError(f"a run, a sweep or a folder of them is needed, {place} is no folder; check the path")
    try:
        return states(place)
    except DataError:
        raise DataError(f"a run, a sweep or a folder of them is needed, {place} is none; check the path") from None


def _told(others: Sequence[RunState]) -> str:
    """How many runs are in which state, the first of them named."""
    kinds: dict[str, list[str]] = {}
    for state in others:
        kinds.setdefault(state.status, []).append(getattr(state, "overrides", "") or state.folder.absolute().name)
    parts = []
    for kind, names in kinds.items():
        more = ", ..." if len(names) > NAMED else ""
        parts.append(f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more})")
    return ", ".join(parts)
