"""A sweep on disk: ``manifest.json`` with all jobs by their overrides, and ``jobs/<hash>.json`` of jobs at work.

Each job writes its own small file, so that none waits for another and nothing grows with their number. The launcher
folds what has ended into the manifest. A file of a job is newer than the manifest's entry.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from influx.commands.outputs import MANIFEST, read_manifest
from influx.errors import UserError
from influx.store import content_hash, explain, write_atomically, write_text

Stamp = tuple[int, int, int]
ENDED = ("done", "failed", "interrupted")
STATUSES = ("pending", "running", *ENDED)
JOBS, STOP, LAUNCHER, LOGS = "jobs", "stop", "launcher", "logs"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one job.

    Attributes:
        status: pending, running, done, failed or interrupted, as the job or its launcher wrote it last.
        run: the run's folder, relative to the sweep's; empty when there is none yet.
        error: why it failed or stopped.
        seconds: what it took.
        verdict: how well the estimator did, in words and a number.
        host: where it works or worked.
        pid: its process there.
        slurm: its id in Slurm, empty outside.
        updated: when this was written, ISO 8601 in UTC.
    """

    status: str = "pending"
    run: str = ""
    error: str = ""
    seconds: float | None = None
    verdict: str = ""
    host: str = ""
    pid: int = 0
    slurm: str = ""
    updated: str = ""

    @classmethod
    def read(cls, values: object) -> Entry:
        """From what JSON holds; what does not fit is left out."""
        if not isinstance(values, Mapping):
            return cls(status="unknown")
        known = {f.name: f.type for f in fields(cls)}
        kept = {k: v for k, v in values.items() if k in known and _fits(v, str(known[k]))}
        status = kept.get("status")
        return cls(**(kept | {"status": status if status in STATUSES else "unknown"}))


def _fits(value: object, kind: str) -> bool:
    if kind == "str":
        return isinstance(value, str)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return "float" in kind or value == int(value)


def this_process() -> dict[str, Any]:
    """Host, pid and Slurm id of the process that calls, for an ``Entry``."""
    slurm = ""
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK"))
        slurm = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    return {"host": socket.gethostname(), "pid": os.getpid(), "slurm": slurm}


@dataclass
class Sweep:
    """The folder of a sweep. Nothing is read before it is asked for."""

    folder: Path
    _kept: dict[str, Entry] | None = None  # the manifest's, for the launcher, which alone writes it
    _read: dict[str, tuple[Stamp, str, Entry]] = field(default_factory=dict)  # by file: stamp, job, state

    def __post_init__(self) -> None:
        """Jobs may run with another working folder."""
        self.folder = self.folder.absolute()

    # one job

    def file(self, job: str) -> Path:
        """Where the job keeps its state while it works."""
        return self.folder / JOBS / f"{content_hash(job, 20)}.json"

    def lock(self, job: str) -> Path:
        """What the process of a job holds as long as it lives."""
        return self.file(job).with_suffix(".lock")

    def record(self, job: str, entry: Entry) -> None:
        """Write the state of one job.

        Raises:
            UserError: the file cannot be written.
        """
        values = {"job": job} | asdict(replace(entry, updated=_now()))
        text = json.dumps(values, ensure_ascii=False) + "\n"
        write_atomically(self.file(job), lambda path: write_text(path, text))

    # all jobs

    def entries(self) -> dict[str, Entry]:
        """All jobs in the order of the manifest; what jobs wrote themselves counts most.

        Jobs' files are read first: the launcher removes one only after the manifest has what it said.
        """
        written = {job: entry for _, job, entry in self._written().values()}
        kept = self._kept
        if kept is None:  # somebody else may write it at any time
            jobs = read_manifest(self.folder).get("jobs")
            kept = {str(k): Entry.read(v) for k, v in jobs.items()} if isinstance(jobs, Mapping) else {}
        return kept | written

    def _written(self) -> dict[str, tuple[Stamp, str, Entry]]:
        """What lies in ``jobs``; files that have not changed are not read again."""
        found = {}
        for name, stamp in self._stamps():
            before = self._read.get(name)
            if before is not None and before[0] == stamp:
                found[name] = before
                continue
            values = _load(self.folder / JOBS / name)
            if isinstance(values.get("job"), str):
                found[name] = (stamp, values["job"], Entry.read(values))
        self._read = found
        return found

    def _stamps(self) -> list[tuple[str, Stamp]]:
        found: list[tuple[str, Stamp]] = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder / JOBS) as items:
            for item in items:
                if item.name.endswith(".json") and item.name[0] != ".":
                    with suppress(FileNotFoundError):  # folded since
                        found.append((item.name, _stamp(item.stat())))
        return found

    def begin(self, head: Mapping[str, Any], jobs: Iterable[str], again: Iterable[str]) -> None:
        """Enter ``jobs`` that are new; those of ``again`` are pending once more. ``head`` says what the sweep is."""
        before = self.entries()
        self._kept = before | {job: Entry(updated=_now()) for job in jobs if job not in before}
        self._kept |= {job: Entry(updated=_now()) for job in again}
        self._save(head)
        for job in again:
            self._remove(self.file(job), self.lock(job))

    def submitted(self, head: Mapping[str, Any], ids: Mapping[str, str]) -> None:
        """Keep the ids that Slurm gave to jobs."""
        assert self._kept is not None
        self._kept |= {job: replace(self._kept[job], slurm=slurm) for job, slurm in ids.items()}
        self._save(head)

    def fold(self, head: Mapping[str, Any], ended: Mapping[str, Entry]) -> None:
        """Move what has ended from the jobs' files into the manifest."""
        stamps = {job: (name, stamp) for name, (stamp, job, entry) in self._read.items() if entry == ended.get(job)}
        self.entries()
        assert self._kept is not None
        self._kept = self._kept | dict(ended)
        self._save(head)
        for job in ended:
            name, stamp = stamps.get(job, ("", (0, 0, 0)))
            path = self.folder / JOBS / name
            if name and path.is_file() and _stamp(path.stat()) == stamp:
                self._remove(path, self.lock(job))

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise explain(error, path) from error

    def _save(self, head: Mapping[str, Any]) -> None:
        assert self._kept is not None
        values = dict(head) | {"updated": _now()}
        # one job a line: what indents is slow, and this is written often
        lines = (f"  {json.dumps(job, ensure_ascii=False)}: {_line(entry)}" for job, entry in self._kept.items())
        start = json.dumps(values, indent=1, ensure_ascii=False, default=str).removesuffix("\n}")
        text = start + ',\n "jobs": {\n' + ",\n".join(lines) + "\n }\n}\n"
        write_atomically(self.folder / MANIFEST, lambda path: write_text(path, text))

    # starting no more

    @property
    def stopped(self) -> bool:
        """Whether jobs that have not begun are to stay pending."""
        return (self.folder / STOP).exists()

    def stop(self) -> None:
        """Let no more jobs begin, wherever they wait."""
        write_atomically(self.folder / STOP, lambda path: write_text(path, _now() + "\n"))

    def go(self) -> None:
        """Let jobs begin."""
        self._remove(self.folder / STOP)


def _line(entry: Entry) -> str:
    kept = {k: v for k, v in asdict(entry).items() if v not in ("", None, 0) or k == "status"}
    return json.dumps(kept, ensure_ascii=False)


def _load(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check its permissions and the disk") from error
    return values if isinstance(values, dict) else {}


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
