"""``influx status``: one row per run, read from manifests and locks alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influx.commands.outputs import RunState, busy, folders, is_outputs, is_run, read_manifest, state_of
from influx.errors import DataError


@dataclass(frozen=True, kw_only=True)
class JobState(RunState):
    """A job of a sweep that has no run's folder to show; ``folder`` is the sweep's."""

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
        shown = [row | {"resumable": "yes" if row["resumable"] else ""} for row in rows]
        used = [c for c in ("name", "status", "stage", "resumable", "updated", "note") if any(r[c] for r in shown)]
        console.print(tables.listing(shown, used))
        console.print()
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
    jobs = read_manifest(folder).get("jobs")
    if isinstance(jobs, Mapping):
        return [_job(folder, str(overrides), job) for overrides, job in jobs.items()]
    if is_run(folder):
        return [state_of(folder)]
    if (folder / "problem.json").is_file() or (folder / "checkpoints").is_dir():
        runs = [state_of(run) for run in folders(folder.absolute().parent.parent / "runs")]
        return [state for state in runs if state.problem == folder.absolute().name]
    below = folders(folder)
    if folder.absolute().name == "runs" or any(is_run(run) for run in below):
        return [state_of(run) for run in below]
    if folder.absolute().name == "sweeps" or any("jobs" in read_manifest(sweep) for sweep in below):
        return [state for sweep in below if "jobs" in read_manifest(sweep) for state in states(sweep)]
    raise DataError(
        f"status takes a run, an outputs folder, its runs, a problem, a sweep or a folder of sweeps, {folder} is none "
        "of these; check the path"
    )


def _job(sweep: Path, overrides: str, job: Any) -> RunState:
    """One job of a sweep: what its run's manifest says, else what the sweep's does."""
    entry = job if isinstance(job, Mapping) else {}
    run = sweep / str(entry["run"]) if entry.get("run") else None
    if run is not None and is_run(run):
        return state_of(run)
    told, note = str(entry.get("status", "unknown")), str(entry.get("error", ""))
    if told == "running" and not busy(sweep):
        told, note = "killed", "its process ended without a word; the same command goes on"
    elif told == "pending":
        note = "not started yet" if busy(sweep) else "not started; the same command goes on"
    updated = str(entry.get("updated", ""))
    return JobState(folder=sweep, overrides=overrides, status=told, note=note, updated=updated)


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


def _summary(rows: list[dict[str, Any]]) -> str:
    kinds = sorted({row["status"] for row in rows})
    counts = ", ".join(f"{sum(row['status'] == kind for row in rows)} {kind}" for kind in kinds)
    return f"{len(rows)} run{'' if len(rows) == 1 else 's'}{f': {counts}' if counts else ''}"
