"""Around Hydra's launchers: jobs that are done are not launched, and what became of the others is seen as it happens.

A launcher of another process is not believed: Hydra keeps errors there, and submitit waits for ever for a job that was
killed. What counts is what jobs write themselves, and whether their processes live.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hydra.plugins.launcher import Launcher

from influx import interrupts
from influx.commands.alive import Queue, Seen, seen
from influx.commands.submitted import answered, need_slurm, not_waiting, refuse_running, safe_path, without_sigint
from influx.commands.sweep import ENDED, Entry, Sweep
from influx.commands.task import Task, named
from influx.errors import ConfigError, UserError
from influx.reporting import progress

POLL = 0.3  # seconds between looks at the jobs' files; more where MANY have ended, up to SLOWEST
MANY, SLOWEST = 500, 5.0
ASK = 15.0  # seconds between questions to Slurm
FOLD = 30.0  # seconds between writings of the manifest
LINES = 5.0  # seconds between lines of progress
ARRAY = 1000  # jobs of one Slurm array: clusters allow 1001 unless told otherwise
SILENCE = 20.0  # seconds after which a job that left Slurm's queue without a word counts as killed
GRACE = 30.0  # seconds that a cluster's job keeps for leaving when its time is up


@dataclass
class Guard(Launcher):
    """Launches through ``inner`` what is left of a sweep.

    Attributes:
        inner: the launcher that was asked for.
        sweep: the folder.
        task: what ``inner`` calls for each job.
        head: what the manifest says of the sweep.
        afresh: launch finished jobs as well.
        quiet: no progress on the screen.
        forget: what jobs of other commands did counts no more, since the settings are others now.
        ran: names of the jobs of this command.
    """

    inner: Launcher
    sweep: Sweep
    task: Task
    head: dict[str, Any]
    afresh: bool
    quiet: bool
    forget: bool = False
    ran: list[str] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)
    _folded: set[str] = field(default_factory=set)
    _queue: Queue = field(default_factory=lambda: Queue(every=ASK))
    _at: dict[str, float] = field(default_factory=dict)  # when something periodic was done last
    _silent: dict[str, float] = field(default_factory=dict)  # since when jobs of Slurm seem to be gone
    short: dict[str, str] = field(default_factory=dict)  # jobs without the overrides that all have

    def setup(self, **_: Any) -> None:
        """Hydra has set up ``inner``."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """Do what is left; nothing is returned, since the jobs' files say it all.

        Raises:
            Interrupted: a signal asked to stop.
            ConfigError: two jobs would be one.
            Busy: jobs to run afresh still run, or Slurm does not say whether it has them.
        """
        jobs = {named(overrides, self.task.left_out): overrides for overrides in job_overrides}
        if len(jobs) < len(job_overrides):
            raise ConfigError("two jobs of the sweep have the same settings; let each value occur once")
        common = frozenset(set.intersection(*map(set, job_overrides))) if len(jobs) > 1 else frozenset()
        self.task.common = common
        self.short |= {job: named(overrides, self.task.left_out | common) for job, overrides in jobs.items()}
        others = [job for job in self.sweep.entries() if job not in jobs] if self.forget else []
        states = answered(self.sweep, self._queue, [*jobs, *others])
        if self.afresh:
            refuse_running(states, [*jobs, *others])
        todo = [job for job in jobs if self.afresh or not _settled(states.get(job))]
        done = sum(states[job].status == "done" for job in jobs if job in states and job not in todo)
        self.sweep.begin(self.head, jobs, [*todo, *others])
        self.forget = False
        self.ran += jobs
        self._said |= {job for job in jobs if job not in todo and states[job].status == "done"}
        if done and not self.quiet:
            progress.note(f"{done} of {len(jobs)} jobs are done already")
        if self.sweep.stopped:
            return []
        if todo:
            self._launch({job: jobs[job] for job in todo}, initial_job_idx)
        else:
            self._watch(list(jobs), lambda: False)
        self.fold()
        return []

    def _launch(self, jobs: dict[str, Sequence[str]], first: int) -> None:
        kind = type(self.inner).__module__
        if self.task.place == "here":
            self.inner.launch(list(jobs.values()), initial_job_idx=first)
            return
        with safe_path():
            (self._submit if "submitit" in kind else self._feed)(jobs, first)

    # a launcher that waits

    def _feed(self, jobs: dict[str, Sequence[str]], first: int) -> None:
        """Let the launcher work in a thread, again where it gave up before all jobs had begun."""
        left = jobs
        while left:
            failure: list[BaseException] = []
            thread = threading.Thread(target=self._inner, args=(list(left.values()), first, failure), daemon=True)
            thread.start()
            try:
                self._watch(self.ran, thread.is_alive)
            finally:
                if interrupts_received():
                    self._stop_workers(thread)
            states = seen(self.sweep)
            waiting = [job for job in left if states[job].status == "pending"]
            if self.sweep.stopped:
                return
            if len(waiting) == len(left):
                why = _one_line(failure[0]) if failure else "it started no job"
                raise UserError(f"the launcher failed: {why}; see its settings, or use another one")
            left = {job: jobs[job] for job in waiting}

    def _inner(self, overrides: list[Sequence[str]], first: int, failure: list[BaseException]) -> None:
        try:
            self.inner.launch(overrides, initial_job_idx=first)
        except BaseException as error:
            failure.append(error)

    def _stop_workers(self, thread: threading.Thread) -> None:
        """Let workers end their units of work and begin no more jobs."""
        self.sweep.stop()
        asked: set[int] = set()
        while thread.is_alive():
            for state in seen(self.sweep).values():
                entry = state.entry
                if state.status == "running" and entry.host == socket.gethostname() and entry.pid not in asked:
                    asked.add(entry.pid)
                    with suppress(OSError):
                        os.kill(entry.pid, signal.SIGTERM)
            thread.join(POLL)

    # submitit

    def _submit(self, jobs: dict[str, Sequence[str]], first: int) -> None:
        """Submit all to Slurm, or as many as there are processors here, and watch them."""
        need_slurm(self.inner)
        params: dict[str, Any] = getattr(self.inner, "params", {})
        local = getattr(self.inner, "_EXECUTOR", "") == "local"
        room = max(1, cores() // int(params.get("cpus_per_task") or 1)) if local else ARRAY
        waiting = list(jobs)
        working: dict[str, Any] = {}  # submitit's jobs on this machine

        def more() -> bool:
            over = [job for job, one in working.items() if one.done()]
            free = room - len(working) + len(over) if local else room
            while waiting and free > 0 and not self.sweep.stopped:
                batch = waiting[:free]
                del waiting[:free]
                handed = self._hand_over([jobs[job] for job in batch], first + len(jobs) - len(waiting) - len(batch))
                if local:
                    working.update(zip(batch, handed, strict=True))
                    free -= len(batch)
                else:
                    ids = {job: str(one.job_id) for job, one in zip(batch, handed, strict=True)}
                    self.sweep.submitted(self.head, ids)
            entries = self.sweep.entries() if over else {}
            for job in over:
                one = working.pop(job)
                if entries[job].status == "pending" and not self.sweep.stopped:
                    why = f"its process ended before it began to work; its log: {one.paths.stderr}"
                    self.sweep.record(job, Entry(status="failed", error=why))
            return bool(working)

        try:
            self._watch(self.ran, more)
        finally:
            if interrupts_received() and local:
                self.sweep.stop()
                for one in working.values():
                    if one._process is not None and not one.done():
                        one._process.send_signal(signal.SIGTERM)
                while any(not one.done() for one in working.values()):
                    time.sleep(POLL)
            elif interrupts_received():
                progress.note(f"jobs in Slurm go on; influx status {self.sweep.folder} shows them")

    def _hand_over(self, overrides: list[Sequence[str]], first: int) -> list[Any]:
        delay = float(getattr(self.inner, "params", {}).get("signal_delay_s", 120))
        with not_waiting(max(1.0, delay - GRACE)) as handed, without_sigint():
            try:
                self.inner.launch(overrides, initial_job_idx=first)
            except Exception as error:
                raise UserError(f"the jobs cannot be submitted: {_one_line(error)}; see hydra.launcher") from error
        return handed

    # watching

    def _watch(self, jobs: list[str], more: Callable[[], bool]) -> None:
        """Say what happens until all jobs have ended, or until ``more`` is false and nothing can happen any more."""
        while True:
            interrupts.check()
            going = more()
            states = self._states()
            self._tell(states)
            if not any(_pending(states[job]) for job in jobs):
                return
            moving = any(states[job].status in ("running", "queued") for job in jobs)
            if not going and not moving and (self.sweep.stopped or self.task.place != "submitted"):
                return
            if self._due("fold", FOLD):
                self.fold()
            time.sleep(min(SLOWEST, POLL * (1 + len(self._said) / MANY)))

    def _states(self) -> dict[str, Seen]:
        states = seen(self.sweep, self._queue, runs=False)
        now = time.monotonic()
        for job, state in states.items():  # what another machine wrote may be seen later than its end in the queue
            if state.status != "killed" or not state.entry.slurm:
                self._silent.pop(job, None)
            elif now - self._silent.setdefault(job, now) < SILENCE:
                states[job] = Seen(state.entry, "running")
        return states

    def _tell(self, states: dict[str, Seen]) -> None:
        """Report what has ended since the last look."""
        fresh = [job for job in self.ran if job not in self._said and not _pending(states[job])]
        self._said |= set(fresh)
        for job in fresh:
            if states[job].status != "done":
                progress.error(
                    f"[{self.short[job]}] {states[job].status}: {states[job].note or states[job].entry.error}"
                )
        if fresh and not self.quiet and (self._due("lines", LINES) or len(self._said) == len(self.ran)):
            ended = [states[job].status for job in self._said]
            failed = sum(status in ("failed", "killed") for status in ended)
            progress.note(f"{len(ended)}/{len(self.ran)} jobs{f', {failed} failed' if failed else ''}")

    def fold(self) -> None:
        """Move what has ended into the manifest."""
        states = self._states()
        ended = {j: states[j].entry for j in self.ran if states[j].status in ENDED and j not in self._folded}
        if ended:
            self.sweep.fold(self.head, ended)
            self._folded |= set(ended)

    def _due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now - self._at.get(what, float("-inf")) < every:
            return False
        self._at[what] = now
        return True

    def outcome(self) -> dict[str, Seen]:
        """How the jobs of this command stand."""
        states = self._states()
        return {job: states[job] for job in self.ran}


def _settled(state: Seen | None) -> bool:
    """Whether a job needs no launch: it is done, or a process or Slurm has it already."""
    if state is None:
        return False
    return state.status in ("running", "queued") or (state.status == "done" and not state.note)


def _pending(state: Seen) -> bool:
    return state.status in ("pending", "running", "queued")


def interrupts_received() -> bool:
    """Whether a signal has asked to stop."""
    try:
        interrupts.check()
    except Exception:
        return True
    return False


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
