"""The row of one stage in a plan, and the memory that every stage holds."""

from __future__ import annotations

import resource
import sys
from typing import Any


def stage_row(
    stage: str, state: str, work: str, seconds: float, memory_mb: float | None, disk_mb: float | None, formula: str
) -> dict[str, Any]:
    """One stage, for the table and for JSON; None where nothing is foreseen."""
    return {
        "stage": stage,
        "state": state,
        "work": work,
        "seconds": seconds,
        "memory_mb": memory_mb,
        "disk_mb": disk_mb,
        "formula": formula,
    }


def peak_mb() -> float:
    """Largest memory of this process so far: libraries and data are the floor of every stage."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
