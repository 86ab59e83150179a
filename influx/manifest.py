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

from influx.added import without_added
from influx.errors import ConfigError, DataError
from influx.store import Folder, content_hash, set_aside, write_atomically, write_text

NAME = "manifest.json"
SCHEMA = 1  # of a run's files; raise when this code can no longer read what it wrote before
PACKAGES = ("influx", "torch", "torchvision", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "hydra-core")


class Manifest:
    """The manifest of one run's folder."""

    def __init__(self, folder: Folder, fresh: dict[str, Any]) -> None:
        """Read what an earlier process left, or begin with ``fresh``.

        Raises:
            DataError: another version of influx left it.
        """
        self.folder = folder
        earlier = read(folder.path)
        refuse_schema(earlier, f"the run {folder.path}")
        goes_on = kept(earlier)
        if goes_on is None:
            set_aside(folder / NAME)
            goes_on = earlier = {}
        empty: dict[str, Any] = {"schema": SCHEMA, "stages": {}, "cost": {}, "warnings": [], "notes": []}
        self.values = empty | fresh | goes_on
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

    def warn(self, *sentences: str) -> None:
        """Keep warnings for tables and reports, each once."""
        self.values["warnings"] = list(dict.fromkeys([*self.values["warnings"], *sentences]))


def _makers(found: dict[str, str]) -> dict[str, str]:
    """The versions that can change a number."""
    return {name: found[name] for name in ("influx", "torch", "numpy", "scipy") if name in found}


def read(folder: Path) -> dict[str, Any]:
    """The manifest in a folder; empty when there is none. A damaged one is set aside."""
    path = folder / NAME
    try:
        values = json.loads(path.read_text())
        whole = isinstance(values, dict) and values.pop("checksum", None) == _checksum(values)
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        whole = False
    if not whole:
        set_aside(path)
        return {}
    found: dict[str, Any] = values
    return found


def kept(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a later process goes on with; None when it has not the types that influx writes."""
    found: dict[str, Any] = {name: values[name] for name in ("stages", "cost", "warnings") if name in values}
    stages, warnings = found.get("stages", {}), found.get("warnings", [])
    fits = isinstance(stages, dict) and all(map(_stage_fits, stages.values())) and _are_texts(warnings)
    return found if fits and isinstance(found.get("cost", {}), dict) else None


def _stage_fits(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("made_with", {}), dict):
        return False
    return _are_texts(entry.get("files"))


def _are_texts(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(text, str) for text in found)


def refuse_schema(values: Mapping[str, Any], what: str) -> None:
    """Refuse files whose layout is another than this code knows; ``values`` are those of their description.

    Raises:
        DataError: it is.
    """
    found = values.get("schema", SCHEMA)
    if found != SCHEMA:
        raise DataError(
            f"{what} has files of schema {found!r}, this version of influx reads {SCHEMA}; use the version that made "
            "it, or another paths.outputs"
        )


def identifying(values: Mapping[str, Any], presentation: Collection[str]) -> dict[str, Any]:
    """The settings that say what a run is, without those that only say how and where it is done."""
    chosen = {k: v for k, v in values["choices"].items() if k not in presentation}
    return without_added({k: v for k, v in values.items() if k not in presentation}) | {"choices": chosen}


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
    used = earlier.get("problem")
    if not changed and isinstance(used, dict) and used.get("id", problem) != problem:
        changed = ["the data"]
    if changed:
        raise ConfigError(
            f"the run named {name} was made with other settings ({', '.join(changed)} differ); "
            "use another name or overwrite=true"
        )
    return whole


def _config(folder: Folder, presentation: Collection[str]) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        return identifying(yaml.safe_load(path.read_text(encoding="utf-8")), presentation)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is not what influx writes ({' '.join(str(error).split())}); use another name or overwrite=true"
        ) from error


def _checksum(values: dict[str, Any]) -> str:
    """Of the values as JSON holds them. Inside the file: it is rewritten often, a second file could lag behind."""
    return content_hash(json.loads(json.dumps(values, default=str)), length=64)


def signs(name: str, estimator: object, baselines: Mapping[str, object]) -> dict[str, Any]:
    """``sign``, what positive values of the estimator mean, and ``unsigned``, who of all has values without a sign."""
    found = [who for who, one in {**baselines, name: estimator}.items() if getattr(one, "sign", "") == "unsigned"]
    if name in found:
        return {"sign": "unsigned: values say nothing of who helps and who harms", "unsigned": found}
    told = "positive influence: the training instance helps, the test risk would be higher without it"
    return {"sign": told, "unsigned": found}


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
