"""The public interface is what ``influx/__init__.py`` says, and nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import influx


def test_the_public_names_are_these() -> None:
    assert influx.__all__ == ["attribute", "list_estimators", "load", "run", "verify"]
    assert dir(influx) == [*sorted(["__version__", *influx.__all__])]


@pytest.mark.parametrize("name", influx.__all__)
def test_a_public_name_is_a_documented_function_of_influx(name: str) -> None:
    function = getattr(influx, name)
    assert callable(function) and function.__name__ == name
    assert function.__module__.startswith("influx.") and function.__doc__


def test_importing_the_module_of_that_name_does_not_hide_the_function() -> None:
    assert importlib.import_module("influx.run").Run.__name__ == "Run"
    assert callable(influx.run)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'estimate'"):
        _ = influx.estimate  # type: ignore[attr-defined]


def test_importing_influx_and_listing_estimators_loads_no_torch() -> None:
    code = "import sys, influx; influx.list_estimators(); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
