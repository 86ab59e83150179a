"""What became of the jobs of a multirun: ``sweeps/<name>/manifest.json``, keyed by their overrides."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from influx.commands.outputs import MANIFEST, read_manifest
from influx.store import content_hash, write_atomically, write_text


@dataclass
class Sweep:
    """Jobs of one command. The same command has the same name, so running it again goes on."""

    command: list[str]
    failed: list[str] = field(default_factory=list)

    def record(self, outputs: Path, overrides: str, status: str, run: Path | None = None, error: str = "") -> None:
        """Keep the state of one job: done with its run's folder, failed or interrupted with the reason."""
        if status == "failed":
            self.failed.append(overrides)
        folder = outputs / "sweeps" / content_hash(self.command)
        jobs = dict(read_manifest(folder).get("jobs", {}))
        jobs[overrides] = {
            "status": status,
            "run": os.path.relpath(run, folder) if run else None,
            "error": error,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        text = json.dumps({"command": ["influx", "run", *self.command], "jobs": jobs}, indent=1, ensure_ascii=False)
        write_atomically(folder / MANIFEST, lambda path: write_text(path, text + "\n"))
