"""What a result depends on besides the code: processor and versions, and nothing that names a place."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from influx.manifest import versions

OWN = ("influx", "git")  # these are what a comparison is about


def machine() -> dict[str, str]:
    """Processor, cores, system, BLAS, and versions of all that computes."""
    import torch

    build = torch.__config__.show()
    blas = next(
        (word.partition("=")[2].strip(",") for word in build.split() if word.startswith("BLAS_INFO=")), "unknown"
    )
    found = versions()
    found = {name: version for name, version in found.items() if name != "torchvision"}
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": "1",
        "blas": blas,
        **found,
    }


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between two machines, apart from influx itself, in words."""
    names = sorted((then.keys() | now.keys()) - set(OWN))
    return [f"{n} {then.get(n, 'unknown')} → {now.get(n, 'unknown')}" for n in names if then.get(n) != now.get(n)]


def processor() -> str:
    """The processor's name; empty where nobody knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
