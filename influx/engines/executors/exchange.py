"""The files through which a run and its workers exchange tasks and results.

Below the run's folder, and below a hash of the code, so that other versions' results are never taken::

    workers/<code>/task_<hash>/   task.json (settings, what to do, names of the blocks), arrays.npz
                   results/<worker>/<name>.npz   the arrays of one block; every worker has a folder of its own
                   claims/<name>   who does a block, where workers choose by themselves
                   errors/<worker>.json   what stopped a worker, other than a signal
                   logs/            what workers print
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from influx.engines.executor import Arrays, Place, Task
from influx.engines.executors.sources import CODE, code_version
from influx.engines.executors.trouble import told_error
from influx.errors import DataError, UserError
from influx.store import CHECKSUMS, Folder, content_hash, explain, set_aside, write_atomically, write_text


def bound_to(settings: Mapping[str, Any]) -> str:
    """Hash of a run's settings besides its executor; what workers import follows from these."""
    kept = {key: settings[key] for key in settings if key not in ("values", "choices")}
    for part in ("values", "choices"):
        kept[part] = {key: value for key, value in settings.get(part, {}).items() if key != "executor"}
    return content_hash(json.loads(json.dumps(kept, default=str)), 16)


class Exchange:
    """One run's files for workers."""

    def __init__(self, path: Path, bound: str | None = None) -> None:
        """``path`` ends in the hash of the code; with ``bound``, tasks of other settings do not count."""
        self.path, self.bound = path, bound
        self.results, self.claims, self.errors, self.logs = (
            path / name for name in ("results", "claims", "errors", "logs")
        )
        self._listed: dict[Path, tuple[int, list[str]]] = {}  # a worker's list: when it was written, what it holds

    @classmethod
    def of(cls, place: Place) -> Exchange:
        """That of a run."""
        return cls(place.path.parent.resolve() / place.path.name / code_version(place.settings))

    # tasks

    def describe(self, task: Task, settings: Mapping[str, Any]) -> Folder:
        """Write a task, the only one from now on; errors of earlier ones are forgotten."""
        arrays = task.arrays()
        told = {"code": code_version(settings), "settings": settings, "names": list(task.names), **task.told}
        told = json.loads(json.dumps(told | {"arrays_hash": arrays_hash(arrays)}, default=str))
        parts = (self.results, self.claims, self.errors, self.logs)
        refuse_links(self.path.parent, self.path, *parts)
        try:
            remove_versions(self.path.parent, keep=self.path.name)
            for path in parts:
                path.mkdir(parents=True, exist_ok=True)
            for path in fitting(self.errors, "*.json"):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, self.path) from error
        name = task_name(told)
        folder = Folder(self.path / name)  # written again even when there: whoever could write here could change it
        folder.write("arrays.npz", lambda path: save_arrays(path, arrays))
        folder.write_json("task.json", told)
        self.forget_tasks(keep=name)
        return folder

    def forget_tasks(self, keep: str = "") -> None:
        """Remove descriptions; workers end when nothing is left to do."""
        for other in fitting(self.path, "task_*"):
            if other.name != keep:
                shutil.rmtree(other, ignore_errors=True)

    def tasks(self) -> list[str]:
        """Names of the folders of the tasks that are described."""
        return [path.parent.name for path in fitting(self.path, "task_*/task.json")]

    def told(self, name: str) -> dict[str, Any] | None:
        """A task's description; None when it is gone, or is not the one that its name stands for."""
        folder = Folder(self.path / name, read_only=True)
        if not (folder.has("task.json") and folder.has("arrays.npz")):
            return None
        try:
            told: dict[str, Any] = folder.read_json("task.json")
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(told, dict) or task_name(told) != name:
            return None
        return told if self.bound in (None, bound_to(told["settings"])) else None

    def arrays(self, name: str, told: Mapping[str, Any]) -> Arrays | None:
        """The arrays of a task that is ``told``; None when they are gone.

        Raises:
            DataError: they are others.
        """
        try:
            arrays = load_arrays(self.path / name / "arrays.npz")
        except FileNotFoundError:
            return None
        if arrays_hash(arrays) != told["arrays_hash"]:
            raise DataError(f"{self.path / name} is not what the run wrote; run the same command again")
        return arrays

    # results

    def done(self) -> set[str]:
        """Names of the blocks with results."""
        found: set[str] = set()
        for path in fitting(self.results, f"*/{CHECKSUMS}"):
            try:
                written = path.stat().st_mtime_ns
                if self._listed.get(path, (0, []))[0] != written:
                    names = json.loads(path.read_text(encoding="utf-8"))
                    self._listed[path] = written, [name.removesuffix(".npz") for name in names]
            except (OSError, ValueError):  # seen in the middle of a change of the network's file system
                continue
            found.update(self._listed[path][1])
        return found

    def has(self, name: str) -> bool:
        """Whether a result is still there; ``read`` says whether it is whole."""
        return bool(fitting(self.results, f"*/{name}.npz"))

    def read(self, name: str) -> Arrays | None:
        """The arrays of a block; None when there is no whole result. A damaged one is set aside."""
        for path in fitting(self.results, f"*/{name}.npz"):
            if Folder(path.parent).has(path.name):
                try:
                    return load_arrays(path)
                except FileNotFoundError:  # removed meanwhile
                    continue
                except (ValueError, KeyError, EOFError, BadZipFile):  # ValueError: pickled objects are never read
                    set_aside(path)
        return None

    def forget(self, name: str) -> None:
        """Remove a block's result; the lists of workers still name it."""
        for path in fitting(self.results, f"*/{name}.npz"):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything."""
        remove_versions(self.path.parent)

    # claims

    def claim(self, name: str, worker: str) -> bool:
        """Take a block for a worker, unless somebody has."""
        try:
            descriptor = os.open(self.claims / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except (FileExistsError, FileNotFoundError):  # the latter when the run has ended
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as f:
            f.write(worker)
        return True

    def claimed(self, names: Iterable[str]) -> dict[str, str]:
        """Who does which of the blocks; an empty name where that is being written."""
        found, there = {}, set[str]()
        with suppress(OSError):
            there.update(os.listdir(self.claims))
        for name in names:
            if name not in there:
                continue
            try:
                found[name] = (self.claims / name).read_text(encoding="utf-8")
            except OSError:
                continue
        return found

    def release(self, name: str) -> None:
        """Let others do a block."""
        (self.claims / name).unlink(missing_ok=True)

    # errors

    def report(self, worker: str, error: BaseException) -> None:
        """Leave what stopped a worker."""
        text = json.dumps(told_error(error) | {"node": socket.gethostname()})
        write_atomically(self.errors / f"{worker}.json", lambda path: write_text(path, text))

    def forget_error(self, worker: str) -> None:
        """It was taken note of."""
        (self.errors / f"{worker}.json").unlink(missing_ok=True)

    def reported(self) -> list[tuple[str, dict[str, str]]]:
        """Workers that an error stopped, with the error."""
        found = []
        for path in fitting(self.errors, "*.json"):
            with suppress(FileNotFoundError):  # removed meanwhile
                found.append((path.stem, json.loads(path.read_text(encoding="utf-8"))))
        return found


def fitting(folder: Path, pattern: str) -> list[Path]:
    """What fits below a folder, sorted; nothing where the folder is removed meanwhile."""
    try:
        return sorted(folder.glob(pattern))
    except FileNotFoundError:
        return []


def refuse_links(*paths: Path) -> None:
    """Results and removals stay below the run's folder.

    Raises:
        UserError: one of the paths is a symbolic link.
    """
    for path in paths:
        if path.is_symlink():
            raise UserError(f"cannot write to {path}: it is a symbolic link; remove it or set paths.outputs elsewhere")


def remove_versions(workers: Path, keep: str = "") -> None:
    """Remove what workers of a run left, and its folder when nothing else is in it; links are not followed."""
    if workers.is_symlink():
        return
    for path in fitting(workers, "*"):
        if path.name != keep and CODE.fullmatch(path.name) and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    if not keep:
        with suppress(OSError):
            workers.rmdir()


def task_name(told: Mapping[str, Any]) -> str:
    """The folder of a task."""
    return f"task_{content_hash(told, 16)}"


def arrays_hash(arrays: Arrays) -> str:
    """Hash of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write an npz file without pickles; the same arrays give the same bytes."""
    with path.open("wb") as f:
        np.savez(f, allow_pickle=False, **arrays)


def load_arrays(path: Path) -> Arrays:
    """Read one."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def check_same(told: Sequence[str], found: Sequence[str]) -> None:
    """Refuse to do blocks that are not those asked for.

    Raises:
        DataError: data, settings or code differ between the run and its worker.
    """
    if list(told) != list(found):
        raise DataError(
            "a worker must find the work that the run described, it found other data, settings or devices; "
            "give all machines the same files and run the same command again"
        )
