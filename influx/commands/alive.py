"""Whether the process of a job still lives: by its lock here, by its heartbeat elsewhere, by ``squeue`` in Slurm."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from influx.commands.outputs import LOCK
from influx.commands.sweep import LAUNCHER, Entry, Sweep
from influx.errors import Busy
from influx.store import explain, is_still

BEAT = 30.0  # seconds between heartbeats
LOST = 300.0  # seconds without one after which a process on another machine counts as dead
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "CONFIGURING")


@dataclass(frozen=True)
class Seen:
    """A job as it stands now. ``status`` may also be killed or queued (in Slurm)."""

    entry: Entry
    status: str
    note: str = ""


def seen(sweep: Sweep, queue: Queue | None = None, runs: bool = True) -> dict[str, Seen]:
    """How all jobs stand, whoever launched them; with ``runs``, also whether runs that are done still exist."""
    entries, queue = sweep.entries(), queue or Queue()
    queue.ask(e.slurm for e in entries.values() if e.slurm and e.status in ("pending", "running", "interrupted"))
    launched = launcher_lives(sweep.folder)
    found = {job: _seen(sweep, job, entry, queue, launched, runs) for job, entry in entries.items()}
    killed = [job for job, state in found.items() if state.status == "killed"]
    if killed:  # unless it ended in order since its file was read
        entries = sweep.entries()
        found |= {job: _seen(sweep, job, entries[job], queue, launched, runs) for job in killed if job in entries}
    return found


def _seen(sweep: Sweep, job: str, entry: Entry, queue: Queue, launched: bool, runs: bool) -> Seen:
    state = queue.state(entry.slurm) if entry.slurm else None
    again = "the same command goes on"
    if entry.status == "running":
        if state in WAITING:
            return Seen(entry, "queued", "Slurm is going to start it again")
        if _lives(sweep, job, entry, state):
            return Seen(entry, "running", f"Slurm job {entry.slurm}" if entry.slurm else "")
        return Seen(entry, "killed", f"its process ended without a word; {again}")
    if entry.status == "interrupted" and state:
        return Seen(entry, "queued", "Slurm is going to start it again")
    if entry.status == "pending" and entry.slurm:
        if state is None:
            return Seen(entry, "pending", f"Slurm job {entry.slurm}; squeue cannot be asked here")
        if state:
            return Seen(entry, "queued", f"Slurm job {entry.slurm} ({state.lower()})")
        if sweep.stopped:
            return Seen(entry, "pending", f"not started; {again}")
        return Seen(entry, "killed", f"Slurm job {entry.slurm} ended before it began to work; {again}")
    if entry.status == "pending":
        return Seen(entry, "pending", "not started yet" if launched else f"not started; {again}")
    if runs and entry.status == "done" and entry.run and not (sweep.folder / entry.run).is_dir():
        return Seen(entry, "done", "its run was removed; the same command makes it again")
    return Seen(entry, entry.status, entry.error)


def _lives(sweep: Sweep, job: str, entry: Entry, state: str | None) -> bool:
    if entry.host == socket.gethostname():
        return _locked(sweep.lock(job)) or bool(state)  # Slurm may just have started it again
    if state is not None:
        return bool(state)
    return beats(sweep.file(job))


def _locked(path: Path) -> bool:
    """Whether a process holds a lock. Shared, so that two who look do not see each other."""
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def beats(path: Path) -> bool:
    """Whether a process elsewhere has touched its file a short while ago."""
    try:
        return time.time() - path.stat().st_mtime < LOST
    except OSError:
        return False


def launcher_lives(folder: Path) -> bool:
    """Whether somebody launches the jobs of this sweep."""
    return _locked(folder / LOCK) or launched_elsewhere(folder) is not None


def launched_elsewhere(folder: Path) -> str | None:
    """The other machine on which somebody launches the jobs; locks do not reach everywhere."""
    path = folder / LAUNCHER
    try:
        host = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return host if host and host != socket.gethostname() and beats(path) else None


@dataclass
class Queue:
    """What Slurm says of jobs, asked at most every so many seconds, with one call for all."""

    every: float = 0.0
    _asked: float = float("-inf")
    _states: Mapping[str, str] | None = None  # None: nobody answers
    _known: set[str] = field(default_factory=set)

    def ask(self, ids: Iterable[str]) -> None:
        """Learn the states of these ids."""
        main = {i.split("_")[0] for i in ids}
        if not main or (time.monotonic() - self._asked < self.every and main <= self._known):
            return
        self._asked, self._known = time.monotonic(), main
        self._states = _squeue(main)

    def forget(self) -> None:
        """Ask again at the next occasion."""
        self._asked = float("-inf")

    def state(self, slurm: str) -> str | None:
        """The state of a job, empty when it is in the queue no more, None when not known."""
        return None if self._states is None else self._states.get(slurm, "")


def _squeue(ids: set[str]) -> dict[str, str] | None:
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "-h", "-r", "-o", "%F %K %i %T", "-j", ",".join(sorted(ids))]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if told.returncode:
        return {} if "Invalid job id" in told.stderr else None  # it forgets what ended a while ago
    states = {}
    for line in told.stdout.splitlines():
        with suppress(ValueError):
            array, task, single, state = line.split()
            states[f"{array}_{task}" if task.isdigit() else single] = state
    return states


@contextmanager
def living(path: Path, lock: Path | None = None, parent: int = 0) -> Iterator[None]:
    """Show inside the block that this process lives: a lock, and touches of ``path``.

    With ``parent``, the process is asked to stop (SIGTERM) once that one is no longer its parent.

    Raises:
        UserError: the lock cannot be made.
        Busy: another process holds it.
    """
    over = threading.Event()

    def beat() -> None:
        touched, parted = time.monotonic(), False
        while not over.wait(1.0):
            if parent and not parted and os.getppid() != parent:
                parted = True
                os.kill(os.getpid(), signal.SIGTERM)
            if time.monotonic() - touched >= BEAT:
                touched = time.monotonic()
                with suppress(OSError):
                    os.utime(path)

    with _taken(lock) if lock is not None else nullcontext():
        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            over.set()


@contextmanager
def _taken(lock: Path) -> Iterator[None]:
    """Hold a lock that somebody may be looking at, and remove it after; one that stays taken belongs to a twin."""
    for _ in range(50):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = lock.open("a")
        except OSError as error:
            raise explain(error, lock) from error
        with handle:
            mine = _take(handle)
            if mine and not is_still(handle, lock):
                continue  # who held it has removed it
            if mine is not None:
                try:
                    yield
                finally:
                    if mine and is_still(handle, lock):
                        with suppress(OSError):
                            lock.unlink()
                return
        time.sleep(0.02)
    raise Busy("another process does the same job; wait for it")


def _take(handle: IO[str]) -> bool | None:
    """Whether the lock is taken now; None when another process has it, False on a disk without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:  # heartbeats must do
        return False
    return True
