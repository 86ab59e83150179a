"""A ground truth that was computed, and not retrained, is kept with its problem: every run on it may read it.

Retrained models are shared through the bank; what is made in another way (``pbrf``) can take as long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from influx.influence import Influence
from influx.needs import Need

if TYPE_CHECKING:
    from influx.job import Job
    from influx.store import Folder

Made = tuple[Influence, dict[str, Any], list[str]]  # with what it took, and warnings


def shared_truth(job: Job, make: Callable[[], Made]) -> Made:
    """The job's ground truth: read from the problem's folder, or made and written there."""
    assert job.truth is not None
    if Need.RETRAIN in job.truth.requires:
        return make()
    name = hashlib.sha256(f"{version('influx')} {job.truth!r}".encode()).hexdigest()[:16]
    folder = job.problem_folder.sub("truth")
    with folder.locked(what="ground truth"):
        if not (folder.has(f"{name}.npz") and folder.has(f"{name}.json")):
            _keep(folder, name, repr(job.truth), *make())
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            values = np.full(arrays["shape"], np.nan)
            values[arrays["rows"]] = arrays["values"]
        kept = folder.read_json(f"{name}.json")
        return Influence(values=values, scale=job.truth.scale, report=kept["report"]), kept["cost"], kept["warnings"]


def _keep(folder: Folder, name: str, what: str, found: Influence, cost: dict[str, Any], warnings: list[str]) -> None:
    rows = np.flatnonzero(found.computed)

    def write(path: Path) -> None:
        with path.open("wb") as f:
            np.savez(f, shape=found.values.shape, rows=rows, values=np.asarray(found.values)[rows])

    folder.write(f"{name}.npz", write)
    folder.write_json(f"{name}.json", {"truth": what, "report": dict(found.report), "cost": cost, "warnings": warnings})
