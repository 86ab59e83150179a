"""One job of a sweep, in whatever process a launcher runs it: this one, a worker, or a job of Slurm."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx import interrupts
from influx.commands.alive import living
from influx.commands.sweep import Entry, Sweep, this_process
from influx.commands.sweep_plan import in_order
from influx.config import Settings, explained, settings_from
from influx.errors import Busy, InfluxError, Interrupted

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass
class Task:
    """What Hydra calls for each job. It travels to other processes, so it holds little.

    Attributes:
        folder: the sweep's.
        left_out: overrides that do not tell jobs apart, such as ``quiet=true``.
        common: overrides that all jobs have, left out where a job is named on the screen.
        config_dir: the user's own choices.
        stop: start no more jobs once one has failed.
        threads: processor threads of a job that does not set its own.
        place: here (the launcher's process), worker (a process that the launcher feeds) or submitted (one of its own).
        pid: the launcher's.
        host: the launcher's.
    """

    folder: Path
    left_out: frozenset[str]
    config_dir: Path | None
    stop: bool
    common: frozenset[str] = frozenset()
    threads: int | None = None
    place: str = "here"
    pid: int = 0
    host: str = ""

    def __post_init__(self) -> None:
        """It is made by the launcher."""
        self.pid, self.host = os.getpid(), socket.gethostname()

    def __call__(self, cfg: DictConfig) -> None:
        """Do one job and write down what became of it; a failure ends only a process that is the job's own.

        Raises:
            Stopped: a signal asks the launcher, whose process this is, to stop.
            SystemExit: a submitted job was interrupted.
            Exception: a submitted job failed.
        """
        from hydra.core.hydra_config import HydraConfig

        overrides = list(HydraConfig.get().overrides.task)
        sweep, job = Sweep(self.folder), named(overrides, self.left_out)
        short = named(overrides, self.left_out | self.common)
        if sweep.stopped:
            return
        parent = self.pid if self.place == "worker" and os.getppid() == self.pid else 0
        begun, at = time.monotonic(), Entry(status="running", **this_process())

        def record(status: str, error: BaseException | None = None, **more: Any) -> None:
            seconds = round(time.monotonic() - begun, 3)
            sweep.record(job, replace(at, status=status, error=_reason(error), seconds=seconds, **more))

        with interrupts.handled():
            try:
                interrupts.check()
                with living(sweep.file(job), sweep.lock(job), parent):
                    sweep.record(job, at)
                    try:
                        settings = self._settings(cfg)
                        folder = self._execute(settings)
                        verdict = _verdict(folder)
                    except (Interrupted, Busy, KeyboardInterrupt, SystemExit) as error:
                        record("interrupted", error)
                        raise
                    except Exception as error:
                        record("failed", error)
                        if self.stop:
                            sweep.stop()
                        raise
                    record("done", run=os.path.relpath(folder.absolute(), sweep.folder), verdict=verdict)
                self._show(folder, settings, short)
            except Exception as error:
                self._ended(error, short)
        if parent and os.getppid() != parent:
            os._exit(143)  # nobody feeds this worker any more

    def _ended(self, error: Exception, job: str) -> None:
        """What a failure means for the process."""
        from influx.reporting.progress import error as say

        if self.place == "here":
            if isinstance(error, Interrupted):  # Hydra would keep it and start the next job
                raise interrupts.Stopped(error) from error
            if os.environ.get("INFLUX_DEBUG") == "1":
                traceback.print_exception(error)
            say(f"[{job}] {'interrupted' if isinstance(error, Busy) else 'failed'}: {_reason(error)}")
        elif self.place == "submitted":
            if isinstance(error, Interrupted | Busy):
                print(f"[{job}] {error}", file=sys.stderr)
                sys.exit(error.exit_code)
            raise error

    def _execute(self, settings: Settings) -> Path:
        from influx.pipeline import execute

        return execute(settings)

    def _show(self, folder: Path, settings: Settings, job: str) -> None:
        from influx.commands.run import show
        from influx.reporting.progress import console

        if not settings["quiet"]:
            console().print(f"[{job}]", markup=False, style="bold")
            show(folder)

    def _settings(self, cfg: DictConfig) -> Settings:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import open_dict

        with_hydra = cfg.copy()
        with open_dict(with_hydra):
            with_hydra.hydra = HydraConfig.get()
        overrides = tuple(HydraConfig.get().overrides.task)
        with explained(list(overrides), self.config_dir):
            settings = settings_from(with_hydra, overrides, self.config_dir)
        changed: dict[str, Any] = {}
        if settings["threads"] is None and self.place != "here":
            changed["threads"] = int(os.environ.get("SLURM_CPUS_PER_TASK", 0)) or self.threads
        if self.place == "worker":
            changed["quiet"] = True  # several share one screen
        return replace(settings, values=dict(settings.values) | changed)


def named(overrides: Iterable[str], left_out: frozenset[str] = frozenset()) -> str:
    """What a job is called: its overrides by key, without those that say only how it is done."""
    return " ".join(in_order(o for o in overrides if o not in left_out)) or "defaults"


def _reason(error: BaseException | None) -> str:
    if error is None:
        return ""
    if isinstance(error, InfluxError):
        return str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "stopped at once; finished work is saved"
    return f"{type(error).__name__}: {error}; INFLUX_DEBUG=1 shows where"


def _verdict(folder: Path) -> str:
    """How well the estimator did, by the first measure of the verdict; empty without one."""
    if not (folder / "metrics.json").is_file():
        return ""
    from influx.reporting.record import RunRecord
    from influx.reporting.verdict import verdict_of

    found = verdict_of(RunRecord.load(folder))
    for key, heading in found.columns.items():
        for row in found.rows:
            if not row.baseline and key in row.scores:
                return f"{row.scores[key].main} {heading.split(' (')[0]}"
    return ""
