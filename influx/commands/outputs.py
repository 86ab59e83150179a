"""What lies in an outputs folder: runs, their states, and who is working on them. Reads manifests, no arrays."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGES = ("train", "truth", "estimate", "evaluate", "report")
RESUMABLE = ("failed", "interrupted", "killed")
MANIFEST, LOCK, CHECKSUMS = "manifest.json", ".lock", "checksums.json"
DIGEST = re.compile(r"[0-9a-f]{64}")
EARLY = re.compile(r"\.lock|log\.txt|config\.yaml|.+\.corrupt(\.\d+)?|\..+\.\d+\.tmp")  # before there is a manifest


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands.

    Attributes:
        folder: the run's folder.
        status: done, running, interrupted (stopped in order), failed, killed (stopped without a word) or unknown
            (its manifest cannot be read).
        stage: the last stage that is done, empty when none is.
        updated: when the manifest was last written, ISO 8601 in UTC; empty when there is none.
        note: why it failed, or what to do.
        problem: id of the trained problem that it uses, empty when not known.
    """

    folder: Path
    status: str
    stage: str = ""
    updated: str = ""
    note: str = ""
    problem: str = ""

    @property
    def resumable(self) -> bool:
        """Whether the same command goes on where it stopped."""
        return self.status in RESUMABLE


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run or sweep; empty when there is none or it is damaged. Changes nothing."""
    return _json(folder / MANIFEST)


def _json(path: Path) -> dict[str, Any]:
    """The mapping in a file; empty when there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def state_of(folder: Path, mine: bool = False) -> RunState:
    """The state of one run's folder; ``mine`` says that the caller holds its lock, so that nobody else does."""
    values = read_manifest(folder)
    if not values:
        return _without_manifest(folder, mine)
    status, note = str(values.get("status", "unknown")), ""
    if status == "failed":
        note = str(values.get("error", ""))
    elif status == "running" and (mine or not busy(folder)):
        status, note = "killed", "its process ended without a word; the same command goes on"
    stages, problem = values.get("stages"), values.get("problem")
    reached = [name for name in STAGES if isinstance(stages, dict) and name in stages]
    return RunState(
        folder=folder,
        status=status,
        stage=reached[-1] if reached else "",
        updated=str(values.get("updated", "")),
        note=note,
        problem=str(problem.get("id", "")) if isinstance(problem, dict) else "",
    )


def _without_manifest(folder: Path, mine: bool) -> RunState:
    if not mine and busy(folder):
        return RunState(folder=folder, status="running", note="just started")
    if (folder / MANIFEST).exists():
        return RunState(folder=folder, status="unknown", note="manifest.json is damaged; the same command goes on")
    if not made_by_influx(folder) and any(folder.iterdir()):
        return RunState(folder=folder, status="unknown", note="not made by influx")
    return RunState(folder=folder, status="killed", note="stopped before it wrote a manifest; the same command goes on")


def made_by_influx(folder: Path) -> bool:
    """Whether a run's or problem's folder, or one inside, bears influx's marks: ``runs`` may be anybody's folder."""
    values, listed = read_manifest(folder), _json(folder / CHECKSUMS)
    if isinstance(values.get("stages"), dict) and isinstance(values.get("status"), str):
        return True
    if listed and all(isinstance(digest, str) and DIGEST.fullmatch(digest) for digest in listed.values()):
        return True
    if not (folder / LOCK).is_file() or (folder / LOCK).stat().st_size:  # ours is empty
        return False
    return all(_early(path) for path in folder.iterdir())


def _early(path: Path) -> bool:
    """What lies in a folder of influx that was killed early."""
    return made_by_influx(path) if path.is_dir() and not path.is_symlink() else bool(EARLY.fullmatch(path.name))


def busy(folder: Path) -> bool:
    """True when another process holds the folder's lock."""
    with held(folder) as free:
        return not free


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock if it is free: true when nobody else works there. Creates no file."""
    try:
        handle = (folder / LOCK).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        yield True
        return
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def folders(parent: Path) -> list[Path]:
    """Folders in ``parent`` by name, without hidden ones and symbolic links; empty when it is no folder."""
    if not parent.is_dir():
        return []
    return sorted(p for p in parent.iterdir() if not p.name.startswith(".") and p.is_dir() and not p.is_symlink())


def is_run(folder: Path) -> bool:
    """Whether a folder belongs to one run: it has a manifest with stages, or lies in ``runs``."""
    inside = folder.absolute().parent.name == "runs" and (folder / LOCK).exists()
    return inside or "stages" in read_manifest(folder)


def is_outputs(folder: Path) -> bool:
    """Whether a folder is one that ``paths.outputs`` named: it has ``runs`` or ``problems``."""
    return any((folder / name).is_dir() for name in ("runs", "problems"))
