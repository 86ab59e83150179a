"""What stopped a worker, told from one process to another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from influx import errors
from influx.errors import InfluxError


def told_error(error: BaseException) -> dict[str, str]:
    """An error as plain values."""
    return {"error": type(error).__name__, "message": str(error)}


def raised(told: Mapping[str, str], log: Path) -> InfluxError:
    """The error that a worker told of."""
    kind = getattr(errors, told["error"], None)
    if isinstance(kind, type) and issubclass(kind, InfluxError) and kind is not errors.Interrupted:
        return kind(told["message"])
    return InfluxError(f"a worker failed with {told['error']}: {told['message']}; {log} shows where")


def last_line(log: Path) -> str:
    """The last thing that a worker said, in brackets, or nothing."""
    try:
        with log.open("rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - 4096))
            lines = f.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f" ({said[-1][:200]})" if said else ""
