"""The commands of Slurm: submit an array, see what is left of it, cancel it."""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from influx.errors import UserError
from influx.store import write_atomically, write_text

if TYPE_CHECKING:
    from influx.engines.executors.slurm import Slurm

log = logging.getLogger("influx")
GRACE_SECONDS = 60  # before the time limit, to put a worker in the queue again
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL")
NEVER = re.compile(r"held|BadConstraints|DependencyNeverSatisfied|PartitionTimeLimit", re.IGNORECASE)  # reasons
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
COMMANDS = ("sbatch", "squeue", "scancel")
COMMAND_SECONDS = 60.0


@dataclass
class Queue:
    """Jobs whose name is a hash of the folder that they serve, so that whoever comes back finds them."""

    choice: Slurm
    folder: Path
    bound: str = ""  # what its workers may do, see ``bound_to``
    _warned: bool = False
    _stuck: bool = False

    @property
    def name(self) -> str:
        """The jobs' name."""
        return "influx-" + hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]

    def script(self) -> str:
        """What a task of the array runs.

        Raises:
            UserError: the folder's name would end a line of the script.
        """
        c = self.choice
        if CONTROL.search(str(self.folder)):
            raise UserError(
                f"paths.outputs must have no control characters, got {str(self.folder)!r}; rename the folder"
            )
        logs = str(self.folder / "logs" / "%A_%a.txt").replace("\\", "\\\\")
        options = [
            f"--job-name={self.name}",
            f"--output={logs}",
            "--open-mode=append",
            "--requeue",
            f"--signal=B:USR1@{GRACE_SECONDS}",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={c.cpus_per_task}",
            f"--mem={max(1, round(c.mem_gb * 1024))}M",
            f"--time={c.timeout_min}",
        ]
        options += [f"--gpus-per-task={c.gpus_per_task}"] if c.gpus_per_task else []
        options += [f"--partition={c.partition}"] if c.partition else []
        options += [f"--account={c.account}"] if c.account else []
        command = [sys.executable, "-P", "-m", "influx.worker", str(self.folder)]
        command += [f"--claim={self.bound}", f"--linger={c.linger}"]
        lines = ["#!/bin/bash", *(f"#SBATCH {shlex.quote(option)}" for option in options), *c.setup]
        return "\n".join([*lines, f"exec {shlex.join(command)}", ""])

    def submit(self, count: int) -> None:
        """Submit an array of ``count`` tasks.

        Raises:
            UserError: Slurm is not there or refuses.
        """
        path = self.folder / "worker.sh"
        write_atomically(path, lambda temporary: write_text(temporary, self.script()))
        done = self._call("sbatch", "--parsable", f"--array=0-{count - 1}", f"--chdir={os.getcwd()}", str(path))
        if done.returncode:
            raise UserError(
                f"sbatch refused the workers of executor=slurm: {_said(done)}; change executor.mem_gb, "
                "executor.cpus_per_task, executor.timeout_min, executor.partition or executor.account"
            )
        log.info("submitted %d workers as job %s", count, done.stdout.strip())

    def jobs(self) -> dict[str, str] | None:
        """Tasks that wait or run, as ``<array>_<number>``, with their state; None when Slurm does not answer."""
        done = self._call("squeue", "--noheader", "--array", f"--name={self.name}", "--format=%F_%K %T %r")
        if done.returncode:
            if not self._warned:
                log.warning("squeue does not answer (%s): waiting", _said(done))
            self._warned = True
            return None
        self._warned = False
        rows = [row for row in (line.split(maxsplit=2) for line in done.stdout.splitlines()) if len(row) > 1]
        stuck = [row for row in rows if row[1] == "PENDING" and len(row) == 3 and NEVER.search(row[2])]
        if stuck and not self._stuck:
            log.warning("job %s will not start (%s): counted as lost", stuck[0][0], stuck[0][2])
            self._stuck = True
        return {row[0]: row[1] for row in rows if row[1] not in ENDED and row not in stuck}

    def cancel(self) -> None:
        """Cancel all of them."""
        done = self._call("scancel", f"--name={self.name}", f"--user={getpass.getuser()}")
        if done.returncode:
            log.warning("scancel could not end the workers: %s; scancel --name=%s ends them", _said(done), self.name)

    def check(self) -> None:
        """Refuse a machine without Slurm, before anything is written.

        Raises:
            UserError: a command of Slurm is missing.
        """
        for command in COMMANDS:
            if shutil.which(command) is None:
                raise UserError(
                    f"executor=slurm needs the command {command}, which is not on PATH; run on a machine of the "
                    "cluster or use executor=processes"
                )

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS, start_new_session=True
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "", f"no answer within {COMMAND_SECONDS:.0f} s")
        except OSError as error:  # a disk of the cluster may be away for a while
            return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error.strerror or error}")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
