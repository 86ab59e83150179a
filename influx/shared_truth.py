"""A ground truth that was computed, and not retrained, is kept with its problem: every run on it may read it.

Retrained models are shared through the bank; what is made in another way (``pbrf``) can take as long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from influx.influence import Influence
from influx.needs import Need

if TYPE_CHECKING:
    from influx.job import Job

Made = tuple[Influence, dict[str, Any], list[str]]  # with what it took, and warnings


def shared_truth(job: Job, make: Callable[[], Made]) -> Made:
    """The job's ground truth: read from the problem's folder, or made and written there."""
    assert job.truth is not None
    if Need.RETRAIN in job.truth.requires:
        return make()
    name = hashlib.sha256(repr(job.truth).encode()).hexdigest()[:16]
    folder = job.problem_folder.sub("truth")
    with folder.locked(what="ground truth"):
        if folder.has(f"{name}.npz") and folder.has(f"{name}.json"):
            with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
                values = np.full(arrays["shape"], np.nan)
                values[arrays["rows"]] = arrays["values"]
            kept = folder.read_json(f"{name}.json")
            found = Influence(values=values, scale=job.truth.scale, report=kept["report"])
            return found, kept["cost"], kept["warnings"]
        found, cost, warnings = make()
        rows = np.flatnonzero(found.computed)
        arrays = {"shape": np.array(found.values.shape), "rows": rows, "values": np.asarray(found.values)[rows]}

        def write(path: Path) -> None:
            with path.open("wb") as f:
                np.savez(f, **arrays)

        folder.write(f"{name}.npz", write)
        folder.write_json(
            f"{name}.json", {"truth": repr(job.truth), "report": dict(found.report), "cost": cost, "warnings": warnings}
        )
        return found, cost, warnings
