"""Settings that problems and runs of earlier versions lack.

At the value that does what was done before, they are left out of what tells problems and runs apart, so that folders
of those versions stay those of the same problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ADDED: Mapping[str, Mapping[str, Any]] = {"training": {"precision": "model", "compile": False}}


def without_added(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by group, without those that earlier versions lack and that change nothing."""
    plain = dict(settings)
    for group, added in ADDED.items():
        node = plain.get(group)
        if isinstance(node, Mapping):
            plain[group] = {key: value for key, value in node.items() if key not in added or value != added[key]}
    return plain
