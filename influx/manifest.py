"""What happened in a run: stages, costs, versions, warnings. ``manifest.json``, rewritten as the run goes on."""

from __future__ import annotations

import json
import logging
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from influx.errors import ConfigError
from influx.store import Folder, content_hash, set_aside, write_atomically, write_text

NAME = "manifest.json"
PACKAGES = ("influx", "torch", "torchvision", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "hydra-core")


class Manifest:
    """The manifest of one run's folder."""

    def __init__(self, folder: Folder, fresh: dict[str, Any]) -> None:
        """Read what an earlier process left, or begin with ``fresh``."""
        self.folder = folder
        earlier = read(folder.path)
        kept: dict[str, Any] = {k: earlier[k] for k in ("stages", "cost", "warnings") if k in earlier}
        self.values: dict[str, Any] = {"stages": {}, "cost": {}, "warnings": [], "notes": [], **fresh, **kept}
        self.status = earlier.get("status")

    def save(self, status: str) -> None:
        """Write the manifest with a status: running, done, failed or interrupted."""
        self.values["status"] = self.status = status
        self.values["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.values.pop("checksum", None)
        self.values["checksum"] = _checksum(self.values)
        text = json.dumps(self.values, indent=1, sort_keys=True, default=str) + "\n"
        write_atomically(self.folder / NAME, lambda path: write_text(path, text))

    def complete(self, stage: str) -> bool:
        """True when a stage is done and all its files are there undamaged."""
        entry = self.values["stages"].get(stage)
        return bool(entry) and all(self.folder.has(name) for name in entry["files"])

    def reuse(self, stage: str) -> None:
        """Say that a stage was done before, and warn when other versions did it."""
        entry = self.values["stages"][stage]
        entry["cached"] = True
        now, then = _makers(self.values["versions"]), entry.get("made_with", {})
        differing = [f"{name} {then[name]} (now {now[name]})" for name in then if then[name] != now.get(name)]
        if differing:
            self.warn(f"stage {stage} was made with {', '.join(differing)}; overwrite=true makes it again")

    def record(self, stage: str, files: list[str], seconds: float, peak_mb: float) -> None:
        """A stage is done and wrote ``files``."""
        self.values["stages"][stage] = {
            "files": files,
            "seconds": round(seconds, 3),
            "peak_mb": round(peak_mb, 1),
            "cached": False,
            "made_with": _makers(self.values["versions"]),
        }

    def warn(self, sentence: str) -> None:
        """Keep a warning for tables and reports, once."""
        if sentence not in self.values["warnings"]:
            self.values["warnings"].append(sentence)


def _makers(found: dict[str, str]) -> dict[str, str]:
    """The versions that can change a number."""
    return {name: found[name] for name in ("influx", "torch", "numpy", "scipy") if name in found}


def read(folder: Path) -> dict[str, Any]:
    """The manifest in a folder; empty when there is none. A damaged one is set aside."""
    path = folder / NAME
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        set_aside(path)
        return {}
    if not isinstance(values, dict) or values.pop("checksum", None) != _checksum(values):
        set_aside(path)
        return {}
    return values


def identifying(values: Mapping[str, Any], presentation: Collection[str]) -> dict[str, Any]:
    """The settings that say what a run is, without those that only say how and where it is done."""
    chosen = {k: v for k, v in values["choices"].items() if k not in presentation}
    return {k: v for k, v in values.items() if k not in presentation} | {"choices": chosen}


def hashes(settings: Mapping[str, Any]) -> dict[str, str]:
    """What the manifest keeps of the settings, should config.yaml be damaged."""
    return {name: content_hash(value) for name, value in settings.items()}


def refuse_drift(folder: Folder, name: str, now: dict[str, Any], presentation: Collection[str], problem: str) -> bool:
    """Refuse to go on in a named run's folder that another configuration than ``now`` made.

    False when config.yaml is missing or damaged, so that everything is better made again.

    Raises:
        ConfigError: the configuration differs, or there are results and nobody can say what they were made with.
    """
    whole, earlier = folder.has("config.yaml"), read(folder.path)
    wanted, then = (now, _config(folder, presentation)) if whole else (hashes(now), earlier.get("configuration"))
    if not isinstance(then, dict):
        if any((folder / file).is_file() for file in folder.checksums()) or any(folder.path.glob("*.npy")):
            raise ConfigError(
                f"the run named {name} has results, but neither its config.yaml nor its manifest.json can be read to "
                "say what they were made with; use another name or overwrite=true"
            )
        return whole
    changed = sorted(k for k in wanted if then.get(k) != wanted[k])
    if not changed and earlier.get("problem", {}).get("id", problem) != problem:
        changed = ["the data"]
    if changed:
        raise ConfigError(
            f"the run named {name} was made with other settings ({', '.join(changed)} differ); "
            "use another name or overwrite=true"
        )
    return whole


def _config(folder: Folder, presentation: Collection[str]) -> dict[str, Any]:
    return identifying(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")), presentation)


def _checksum(values: dict[str, Any]) -> str:
    """Of the values as JSON holds them. Inside the file: it is rewritten often, a second file could lag behind."""
    return content_hash(json.loads(json.dumps(values, default=str)), length=64)


def versions() -> dict[str, str]:
    """Versions of Python, influx, its git commit if it runs from a checkout, and what computes."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    root = Path(__file__).parents[1]
    if (root / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        described = subprocess.run(command, capture_output=True, text=True, check=False)
        if described.returncode == 0:
            found["git"] = described.stdout.strip()
    return found


class Measured:
    """Seconds and peak memory of a block of code."""

    seconds: float = 0.0
    peak_mb: float = 0.0


@contextmanager
def measured() -> Iterator[Measured]:
    """Time a block and take the peak resident memory while it ran (of the whole process, in MB)."""
    result, start = Measured(), time.perf_counter()
    _reset_peak()
    try:
        yield result
    finally:
        result.seconds, result.peak_mb = time.perf_counter() - start, _peak_mb()


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak since the start of the process stands
        logging.getLogger("influx").debug("cannot reset the peak of resident memory")


def _peak_mb() -> float:
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
