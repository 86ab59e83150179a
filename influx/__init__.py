"""influx: which training data a prediction comes from, and how far to believe the answer."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influx.api import load, run
    from influx.attributing import attribute
    from influx.catalogue import list_estimators
    from influx.verification import verify

__version__ = "0.1.0"
__all__ = ["attribute", "list_estimators", "load", "run", "verify"]

_HOME = {
    "attribute": "influx.attributing",
    "load": "influx.api",
    "run": "influx.api",
    "list_estimators": "influx.catalogue",
    "verify": "influx.verification",
}


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first used, so that the command line starts fast."""
    if name not in _HOME:
        raise AttributeError(f"module 'influx' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Package(ModuleType):
    """Keeps ``influx.run`` the function when the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
