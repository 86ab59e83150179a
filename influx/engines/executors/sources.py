"""What a worker computes with: a hash that differs where sources or versions do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from typing import Any

from influx.manifest import PACKAGES
from influx.own_code import sources

CODE = re.compile(r"[0-9a-f]{12}")  # what ``code_version`` gives


def code_version(settings: Mapping[str, Any]) -> str:
    """Hash of the sources of influx and of trusted packages, and of the versions of what computes."""
    return _code_version(tuple(settings.get("values", {}).get("trust", ())))


@cache
def _code_version(trust: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            digest.update(f"{package} {metadata.version(package)}\0".encode())
    for package in ("influx", *trust):
        for root, path in sources(package):
            digest.update(f"{package} {path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
