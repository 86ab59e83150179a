"""The study of all estimators forgets none, and asks of each what it can do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from influx.config import choices_of, compose
from influx.job import assemble
from tests.cli.conftest import ROOT


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("study_all", ROOT / "scripts" / "study_all.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_estimator_is_in_a_table(study: ModuleType) -> None:
    tables = study.filled()
    placed = [e for table in tables.values() for sweep in table.sweeps for e in sweep.estimators]
    assert set(placed) == set(choices_of("estimator"))
    for name, table in study.ELSEWHERE.items():
        assert any(name in sweep.estimators for sweep in tables[table].sweeps)
        assert not any(name in sweep.estimators for sweep in tables["nets"].sweeps)
    for table in tables.values():  # rows of one table are told apart by their estimators
        names = [e for sweep in table.sweeps for e in sweep.estimators]
        assert len(names) == len(set(names))


@pytest.mark.slow
def test_every_estimator_takes_the_problem_of_its_table(study: ModuleType, tmp_path: Path) -> None:
    for name, table in study.filled().items():
        for _, (estimators, *overrides) in study.commands(name, table, tmp_path):
            for estimator in estimators.partition("=")[2].split(","):
                assemble(compose([f"estimator={estimator}", *overrides], None))  # refuses what does not fit
