"""What became of the jobs of a multirun: ``sweeps/<name>/manifest.json``, keyed by their overrides."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from influx.commands.outputs import LOCK, MANIFEST, held, read_manifest
from influx.store import content_hash, explain, write_atomically, write_text

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass
class Sweep:
    """Jobs of one command. The same command has the same name, so running it again goes on."""

    command: list[str]
    overrides: list[str] = field(default_factory=list)
    config_dir: Path | None = None
    failed: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    _entered: set[Path] = field(default_factory=set)

    @contextmanager
    def running(self, outputs: Path, overrides: str, planned: Callable[[], Iterable[str]]) -> Iterator[None]:
        """One job works inside the block; ``planned`` names all jobs, which the first one enters as pending.

        A shared lock says that the sweep is alive. Nothing else tells a running job from one that was killed.
        """
        folder = self._folder(outputs)
        with held(folder) as alone:
            pass
        with _shared(folder):
            if alone and folder not in self._entered:
                self._enter(folder, planned())
            self._entered.add(folder)
            self.record(outputs, overrides, "running")
            yield

    def record(self, outputs: Path, overrides: str, status: str, run: Path | None = None, error: str = "") -> None:
        """Keep the state of one job: done with its run's folder, failed or interrupted with the reason."""
        folder = self._folder(outputs)
        with _exclusive(folder):
            self._write(folder, _jobs(folder) | {overrides: _entry(folder, status, run, error)})

    def _folder(self, outputs: Path) -> Path:
        return outputs / "sweeps" / content_hash(self.command)

    def _enter(self, folder: Path, planned: Iterable[str]) -> None:
        with _exclusive(folder):
            jobs = _jobs(folder)
            forgotten = [o for o, job in jobs.items() if job.get("status") == "running"]  # of a process that was killed
            fresh = {o: _entry(folder, "pending") for o in planned if o not in jobs}
            self._write(folder, jobs | {o: _entry(folder, "pending") for o in forgotten} | fresh)

    def _write(self, folder: Path, jobs: dict[str, Any]) -> None:
        text = json.dumps({"command": ["influx", "run", *self.command], "jobs": jobs}, indent=1, ensure_ascii=False)
        write_atomically(folder / MANIFEST, lambda path: write_text(path, text + "\n"))


def planned_jobs(hydra: Any, overrides: list[str]) -> list[str]:
    """All jobs of a sweep by their overrides; none where the sweeper is not Hydra's own and decides as it goes."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.utils import filter_overrides

    if hydra.sweeper.get("_target_") != BASIC_SWEEPER or GlobalHydra.instance().hydra is None:
        return []
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    given = [*(f"{k}={v}" for k, v in (hydra.sweeper.params or {}).items()), *filter_overrides(overrides)]
    batches = BasicSweeper.split_arguments(parser.parse_overrides(given), None)
    return [label(filter_overrides(job)) for batch in batches for job in batch]


def label(overrides: Iterable[str]) -> str:
    """What a job is called."""
    return " ".join(overrides) or "defaults"


def _jobs(folder: Path) -> dict[str, Any]:
    jobs = read_manifest(folder).get("jobs")
    return {k: v for k, v in jobs.items() if isinstance(v, dict)} if isinstance(jobs, dict) else {}


def _entry(folder: Path, status: str, run: Path | None = None, error: str = "") -> dict[str, Any]:
    return {
        "status": status,
        "run": os.path.relpath(run, folder) if run else None,
        "error": error,
        "updated": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def _shared(folder: Path) -> Iterator[None]:
    with _open(folder / LOCK) as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """For one process of a parallel launcher at a time, so that none loses another's entry."""
    with _open(folder / ".writing") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _open(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        raise explain(error, path.parent) from error
