"""By how much this process grows while something runs."""

from __future__ import annotations

import ctypes
import math
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")  # 5 sets the peak back to what is resident now


class Growing:
    """Begins with what is resident now."""

    def __init__(self) -> None:
        self.resident = math.nan
        _give_back()
        with suppress(OSError):  # no Linux, or not allowed: the peak since the start of the process tells nothing
            RESET.write_text("5")
            self.resident = _mb("VmRSS")

    def mb(self) -> float:
        """MB between the peak since the beginning and what was resident then; NaN where it cannot be measured."""
        return math.nan if math.isnan(self.resident) else max(_mb("VmHWM") - self.resident, 0.0)


def _give_back() -> None:
    """Return freed memory to the system, as far as the C library can: what is kept would be used again unseen."""
    with suppress(AttributeError, OSError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def _mb(field: str) -> float:
    lines = STATUS.read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), math.nan)
