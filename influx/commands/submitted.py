"""Jobs that submitit runs, here or in Slurm: they fail where they fail, and nobody waits in vain for them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from influx import interrupts
from influx.commands.alive import Queue, Seen, seen
from influx.commands.sweep import Sweep
from influx.commands.sweep_plan import NAMED
from influx.errors import Busy, UserError

if TYPE_CHECKING:
    from types import FrameType

ATTEMPTS, PAUSE = 3, 2.0  # questions to a Slurm that does not answer, and seconds between them
SAFE = "PYTHONSAFEPATH"


@dataclass
class Submitted:
    """A job as submitit runs it: its process fails when the job does, and it stops in order when Slurm says so.

    Hydra keeps every exception of a job, and submitit reports success then.
    """

    launcher: Any
    grace: float  # seconds between the end of the last unit of work and the kill

    def __call__(self, *arguments: Any) -> None:
        """Run the job; ``arguments`` are those of Hydra's launcher.

        Raises:
            Exception: the job failed.
            SystemExit: it was interrupted.
        """
        requeue, asked = signal.getsignal(signal.SIGUSR2), False

        def ask(signum: int, frame: FrameType | None) -> None:
            nonlocal asked
            del signum, frame
            asked = True
            signal.setitimer(signal.ITIMER_REAL, self.grace)
            os.kill(os.getpid(), signal.SIGTERM)

        def give_up(signum: int, frame: FrameType | None) -> None:
            del signum, frame
            raise KeyboardInterrupt  # the unit of work takes too long

        if callable(requeue):
            signal.signal(signal.SIGALRM, give_up)
            signal.signal(signal.SIGUSR2, ask)
        try:
            with interrupts.handled():
                returned = self.launcher(*arguments)
        except (SystemExit, KeyboardInterrupt):
            if asked and callable(requeue):
                requeue(signal.SIGUSR2, None)  # submitit puts the job back into the queue and leaves
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        _ = returned.return_value  # raises what Hydra kept

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit writes for the next attempt: the same job, which goes on by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


def answered(sweep: Sweep, queue: Queue, jobs: list[str]) -> dict[str, Seen]:
    """How all jobs stand, once Slurm has said whether it has these.

    Raises:
        Busy: it does not say.
    """
    here = shutil.which("squeue") is not None
    for attempt in range(ATTEMPTS if here else 1):
        states = seen(sweep, queue)
        entries = [states[job].entry for job in jobs if job in states]
        asked = [e.slurm for e in entries if e.slurm and e.status in ("pending", "interrupted")]
        if all(queue.state(slurm) is not None for slurm in asked):
            return states
        if here and attempt < ATTEMPTS - 1:
            interrupts.check()
            time.sleep(PAUSE)
            queue.forget()
    why = "squeue does not answer; try again when it does"
    if not here:
        why = "squeue is not on PATH; run the command on a machine of the cluster"
    raise Busy(f"jobs of the sweep may wait in Slurm ({', '.join(asked[:NAMED])}), and {why}")


def need_slurm(launcher: Any) -> None:
    """Refuse to hand jobs over to a Slurm that is not there.

    Raises:
        UserError: so it is.
    """
    if getattr(launcher, "_EXECUTOR", "") == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm needs the command sbatch, which is not on PATH; run on a machine of the "
            "cluster or use hydra/launcher=submitit_local"
        )


def refuse_running(states: Mapping[str, Seen], jobs: list[str]) -> None:
    """Refuse to run jobs afresh that are at work.

    Raises:
        Busy: some are.
    """
    busy = [job for job in jobs if job in states and states[job].status in ("running", "queued")]
    if busy:
        names = ", ".join(busy[:NAMED]) + (" …" if len(busy) > NAMED else "")
        ids = " ".join(states[job].entry.slurm for job in busy[:NAMED] if states[job].entry.slurm)
        how = f" (scancel {ids})" if ids else ""
        raise Busy(f"jobs still run or are queued: {names}; wait for them or stop them{how} before overwrite=true")


@contextmanager
def without_sigint() -> Iterator[None]:
    """Let processes that are started inside never see Ctrl-C, which a terminal sends to all: SIGTERM stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def safe_path() -> Iterator[None]:
    """Let Python processes that are started inside import nothing from the current folder, as workers of runs do.

    Launchers start them by ``python -m``, which would look there first.
    """
    before = os.environ.get(SAFE)
    os.environ[SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE]
        else:
            os.environ[SAFE] = before


@contextmanager
def not_waiting(grace: float) -> Iterator[list[Any]]:
    """Let Hydra's plug-in hand jobs over to submitit without waiting for results; yields submitit's jobs."""
    import submitit

    handed: list[Any] = []
    original = submitit.AutoExecutor.map_array

    def map_array(self: Any, launcher: Any, *columns: Any) -> list[Any]:
        handed.extend(original(self, Submitted(launcher, grace), *columns))
        return []

    submitit.AutoExecutor.map_array = map_array  # type: ignore[method-assign, assignment]
    try:
        yield handed
    finally:
        submitit.AutoExecutor.map_array = original  # type: ignore[method-assign]
