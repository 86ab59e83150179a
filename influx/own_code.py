"""The source files of packages that people trust: what makes code another, and whether Python still runs it."""

from __future__ import annotations

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from influx.errors import ConfigError

_SEEN: dict[str, tuple[ModuleType | None, str]] = {}  # package -> what was imported, and its sources at that time


def sources(package: str) -> list[tuple[Path, Path]]:
    """Folders and Python files of a package or module; none where it is not found, which ``build`` reports."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None or (spec.submodule_search_locations is None and not spec.has_location):
        return []
    if spec.submodule_search_locations is None:
        return [(Path(str(spec.origin)).parent, Path(str(spec.origin)))]
    roots = [Path(place) for place in spec.submodule_search_locations]
    return [(root, path) for root in roots for path in sorted(root.rglob("*.py"))]


def digest(package: str) -> str:
    """SHA-256 of all its source files and their names."""
    found = hashlib.sha256()
    for root, path in sources(package):
        found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def before_import(module: str) -> str:
    """Hash of the sources of the package that a module is in, at the time when Python imports them."""
    package = module.partition(".")[0]
    held, known = _SEEN.get(package, (None, ""))
    return known if held is not None and held is sys.modules.get(package) else digest(package)


def after_import(module: str, imported: str, setting: str) -> None:
    """Hold the sources against the ``imported`` ones, and remember these.

    Raises:
        ConfigError: they have changed since.
    """
    package = module.partition(".")[0]
    _SEEN[package] = (sys.modules.get(package), imported)
    if digest(package) != imported:
        raise ConfigError(
            f"{setting}: files of {package} have changed since Python imported it, and the old code would run; "
            "start Python (or the notebook's kernel) anew"
        )
