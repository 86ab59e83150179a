"""The script that runs the tests of all faults tells failures, and what did not run."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from importlib.machinery import SourceFileLoader
from types import ModuleType

import pytest

from tests.faults.conftest import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``scripts/faults`` as a module."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("faults_script", str(ROOT / "scripts" / "faults"))
    spec = importlib.util.spec_from_loader("faults_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "faults_script", module)  # dataclasses look their module up
    loader.exec_module(module)
    return module


def test_the_table_says_what_failed_what_did_not_run_and_what_became_of_each_bomb(script: ModuleType) -> None:
    said = f"exit code 2, error: <x> | {tempfile.gettempdir()}/f"
    cases = {
        1: [script.Case("t::test_a", "the same", "passed"), script.Case("t::test_b", "the same", "failed")],
        2: [script.Case("t::test_a", "saved", "passed"), script.Case("t::test_b", "143")],
        5: [script.Case("t::test_a", "goes on", "passed"), script.Case("t::test_b", "goes on", "skipped", "no Slurm")],
        32: [script.Case("t::test_a_bomb[a|b]", "refused", "passed", said), script.Case("t::test_b", "refused")],
    }
    lines = script.page(cases, " Interrupted.").splitlines()
    assert lines[2].endswith("tried it. Interrupted.")
    assert {
        "| 1 | SIGKILL at random points | the same | **failed**: t::test_b | 0.0 |",
        "| 2 | SIGTERM | saved; 143 | 1 passed, 1 did not run | 0.0 |",
        "| 3 | SIGINT once, twice | | **no test** | |",
        "| 5 | preemption and time limit of a cluster job | goes on | 1 passed, 1 skipped (no Slurm) | 0.0 |",
        "| 32 | pickle bombs | see below, test by test | 1 passed, 1 did not run | 0.0 |",
        "| 32 | a bomb (a\\|b) | refused | exit code 2, error: &lt;x> \\| TMP/f |",
        "| 32 | b | refused | **did not run** |",
    } <= set(lines)
