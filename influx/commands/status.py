"""``influx status``: one row per run, read from manifests and locks alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influx.commands.alive import Seen, seen
from influx.commands.outputs import MANIFEST, RunState, folders, is_outputs, is_run, read_manifest, state_of
from influx.commands.sweep import JOBS, Sweep
from influx.errors import DataError

ROWS = 100  # of the table


@dataclass(frozen=True, kw_only=True)
class JobState(RunState):
    """A job of a sweep; ``folder`` is its run's, or the sweep's as long as there is none."""

    overrides: str


def status(folder: Path, as_json: bool) -> int:
    """Print the states of a run, a sweep, a problem's runs or a folder of runs; the exit code.

    Raises:
        DataError: the folder is none of these.
    """
    rows = [_row(state) for state in states(folder)]
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    from influx.reporting import progress, tables

    console = progress.console()
    if rows:
        shown = _few(rows)
        used = [c for c in ("name", "status", "stage", "resumable", "updated", "note") if any(r[c] for r in shown)]
        console.print(tables.listing(shown, used))
        console.print()
        if len(rows) > len(shown):
            console.print(f"{len(rows) - len(shown)} more: influx status {folder} --json", markup=False, soft_wrap=True)
    console.print(_summary(rows), markup=False)
    return 0


def states(folder: Path) -> list[RunState]:
    """States of all runs that a folder stands for, by name.

    Raises:
        DataError: the folder does not exist or is not one that influx made.
    """
    if not folder.is_dir():
        raise DataError(f"status takes a folder, {folder} is none; name a run, outputs/runs, a problem or a sweep")
    if is_outputs(folder):
        return [state_of(run) for run in folders(folder / "runs")]
    if isinstance(read_manifest(folder).get("jobs"), Mapping):
        return _jobs(folder)
    if _damaged(folder):
        note = "manifest.json is damaged; the same command goes on"
        return [RunState(folder=folder, status="unknown", note=note)]
    if is_run(folder):
        return [state_of(folder)]
    if (folder / "problem.json").is_file() or (folder / "checkpoints").is_dir():
        runs = [state_of(run) for run in folders(folder.absolute().parent.parent / "runs")]
        return [state for state in runs if state.problem == folder.absolute().name]
    below = folders(folder)
    if folder.absolute().name == "runs" or any(is_run(run) for run in below):
        return [state_of(run) for run in below]
    if folder.absolute().name == "sweeps" or any("jobs" in read_manifest(sweep) for sweep in below):
        sweeps = [sweep for sweep in below if "jobs" in read_manifest(sweep) or _damaged(sweep)]
        return [state for sweep in sweeps for state in states(sweep)]
    raise DataError(
        f"status takes a run, an outputs folder, its runs, a problem, a sweep or a folder of sweeps, {folder} is none "
        "of these; check the path"
    )


def _damaged(folder: Path) -> bool:
    """Whether a folder is a sweep's whose manifest cannot be read."""
    sweep = folder.absolute().parent.name == "sweeps" or (folder / JOBS).is_dir()
    return sweep and (folder / MANIFEST).is_file() and not read_manifest(folder)


def _jobs(folder: Path) -> list[RunState]:
    """The jobs of a sweep, from its own files alone: runs may be many, and far away."""
    sweep = Sweep(folder)
    return [_job(folder, job, state) for job, state in seen(sweep).items()]


def _job(sweep: Path, job: str, state: Seen) -> JobState:
    run = state.entry.run
    note = state.note or (state.entry.verdict if state.status == "done" else "")
    folder = Path(os.path.normpath(sweep / run)) if run else sweep
    return JobState(folder=folder, overrides=job, status=state.status, note=note, updated=state.entry.updated)


def _row(state: RunState) -> dict[str, Any]:
    return {
        "name": state.overrides if isinstance(state, JobState) else state.folder.absolute().name,
        "folder": str(state.folder),
        "status": state.status,
        "stage": state.stage,
        "resumable": state.resumable,
        "updated": state.updated,
        "note": state.note,
    }


def _few(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a screen holds, unfinished ones first where some must go; jobs without the overrides that all have."""
    order = rows if len(rows) <= ROWS else sorted(rows, key=lambda row: row["status"] == "done")
    words = [str(row["name"]).split(" ") for row in rows]
    common = set.intersection(*map(set, words)) if len(rows) > 1 else set()
    return [
        row
        | {"resumable": "yes" if row["resumable"] else ""}
        | {"name": " ".join(word for word in str(row["name"]).split(" ") if word not in common) or row["name"]}
        for row in order[:ROWS]
    ]


def _summary(rows: list[dict[str, Any]]) -> str:
    kinds = sorted({row["status"] for row in rows})
    counts = ", ".join(f"{sum(row['status'] == kind for row in rows)} {kind}" for kind in kinds)
    return f"{len(rows)} run{'' if len(rows) == 1 else 's'}{f': {counts}' if counts else ''}"
