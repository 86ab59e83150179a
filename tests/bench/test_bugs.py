"""Bugs in an estimator are caught by ``influx bench --compare`` with the right exit code, and nothing else is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.bench import bench, gates, growth, suites
from influx.bench.bench import run
from influx.bench.measures import Results, save
from influx.bench.suites import Growth
from influx.bench.trial import agree, arrays
from influx.commands import bench as command
from influx.errors import ConfigError
from influx.estimators.trajectory.tracincp import TracInCP
from influx.influence import Influence
from influx.planning import Prospect, Work
from influx.run import Run
from tests.bench.conftest import tiny

right = TracInCP.estimate
Judged = Callable[[], tuple[int, str]]


@pytest.fixture
def judged(clean: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judged:
    """Exit code and findings of the command, held against a baseline file of clean results."""
    monkeypatch.setattr(suites, "load", lambda name: tiny())
    save(clean, tmp_path / "baseline.json")

    def judge() -> tuple[int, str]:
        code = command.bench(["tiny"], tmp_path / "baseline.json", False, tmp_path / "out")
        found = json.loads((tmp_path / "out" / "findings.json").read_text())
        return code, "\n".join("{level} {kind} {where}: {message}".format(**finding) for finding in found)

    return judge


def wrong_sign(self: TracInCP, run: Run) -> Influence:
    found = right(self, run)
    return replace(found, values=-found.values)


def wrong_factor(self: TracInCP, run: Run) -> Influence:
    found = right(self, run)
    return replace(found, values=1.001 * found.values)


def wrong_self(self: TracInCP, run: Run) -> Influence:
    found = right(self, run)
    assert found.self_influence is not None
    return replace(found, self_influence=-7 * found.self_influence)


def unsteady(kept: list[int]) -> Any:
    def estimate(self: TracInCP, run: Run) -> Influence:
        found = right(self, run)
        kept.append(0)
        return replace(found, values=found.values * (1 + 1e-3 * len(kept)))

    return estimate


def stale(kept: dict[Any, Influence]) -> Any:
    def estimate(self: TracInCP, run: Run) -> Influence:
        key = len(run.train), len(run.test)  # as if that said which problem it is
        if key not in kept:
            kept[key] = right(self, run)
        return kept[key]

    return estimate


def half_as_fast(self: TracInCP, run: Run) -> Influence:
    start = time.process_time()
    found = right(self, run)
    end = 2 * time.process_time() - start
    while time.process_time() < end:
        pass
    return found


def hoarding(self: TracInCP, run: Run) -> Influence:
    return replace(right(self, run), report={"held": np.ones(2_500_000)})  # 20 MB


def test_nothing_wrong_is_found_where_nothing_is_wrong(judged: Judged) -> None:
    code, said = judged()
    assert (code, "fail" in said) == (0, False), said


def test_a_wrong_sign_is_caught(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", wrong_sign)
    code, said = judged()
    assert code == 3 and "tiny/first/tracincp: pearson was" in said and "the numbers moved by about" in said


def test_a_wrong_factor_is_caught_although_no_rank_changes(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", wrong_factor)
    code, said = judged()
    assert code == 3 and "the numbers moved by about" in said and "pearson" not in said


def test_a_wrong_self_influence_is_caught(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", wrong_self)
    code, said = judged()
    assert code == 3 and "tiny/first/tracincp: self_influence moved by about" in said and "the numbers" not in said


def test_rounds_agree_in_all_that_they_say() -> None:
    values, errors = np.ones((3, 2)), np.full((3, 2), 0.1)
    one = Influence(values=values, stderr=errors, self_influence=np.array([1.0, np.nan, 2.0]), replicates=(values,))
    assert agree(one, replace(one, values=values * (1 + 1e-7)))
    assert not agree(one, replace(one, stderr=-errors))
    assert not agree(one, replace(one, self_influence=np.array([1.0, np.nan, 2.1])))
    assert not agree(one, replace(one, self_influence=None))
    assert not agree(one, replace(one, replicates=(2 * values,)))
    assert "replicate 0" in arrays(one)


def test_what_stops_an_oracle_a_problem_or_a_slope_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> Any:
        raise ConfigError("broken")

    for name in ("Problem", "verify"):
        monkeypatch.setattr(bench, name, broken)
    monkeypatch.setattr(growth, "check", broken)
    slopes = [{"estimator": "tracincp", "vary": "seed", "sizes": [1, 2], "slope": 1}]
    now = run([replace(tiny(), oracles=["loo", "random"], growth=[Growth(**one) for one in slopes])])
    findings = list(gates.on_their_own(now))
    assert [f.where for f in findings] == [
        f"tiny/{place}" for place in ("first", "second", "oracles/loo", "oracles/random", "seed/tracincp")
    ]
    assert {f.message for f in findings} == {"stopped with broken"} and gates.exit_code(findings) == 1


@pytest.mark.parametrize("error", [ConfigError("broken"), ZeroDivisionError("broken")])
def test_what_stops_the_planning_of_one_estimator_leaves_the_others(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TracInCP, prospect: Prospect) -> Work:
        raise error

    monkeypatch.setattr(TracInCP, "plan", broken)
    orders = [{"metric": "pearson", "order": ["random", "tracincp"]}]
    now = run([tiny(estimators={"tracincp": None, "random": None}, orders=orders)])
    findings = list(gates.on_their_own(now))
    assert gates.exit_code(findings) == 1 and "broken" in now.entries["tiny/first/tracincp"].error
    assert not now.entries["tiny/first/random"].error
    assert [check.passed for check in now.checks] == [False, False]


def test_data_that_cannot_be_made_leave_the_other_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    known = bench.job_of

    def one(settings: list[str], outputs: Path) -> Any:
        return known(settings, outputs) if "seed=1" in settings else 1 // 0

    monkeypatch.setattr(bench, "job_of", one)
    now = run([tiny(estimators={"random": None})])
    assert list(now.entries) == ["tiny/second/random"]
    assert [f.where for f in gates.on_their_own(now)] == ["tiny/first"]


def test_a_metric_that_the_problem_does_not_have_is_the_suites_mistake() -> None:
    with pytest.raises(ConfigError, match="no metric of tiny/first/random gives ldss"):
        run([tiny(estimators={"random": None}, values={"ldss": "higher"})])


def test_a_stale_cache_is_caught_on_the_second_problem_of_its_shape(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TracInCP, "estimate", stale({}))
    code, said = judged()
    assert code == 3 and "tiny/second/tracincp" in said and "fail quality tiny/first" not in said


def test_every_round_starts_with_the_trained_problem_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def storing(self: TracInCP, run: Run) -> Influence:
        place = run.bank.folder.path.parent
        for folder in (place, place.parent / "stored"):
            seen.append((folder / "kept").exists())
            folder.mkdir(exist_ok=True)
            (folder / "kept").write_text("")
        return right(self, run)

    monkeypatch.setattr(TracInCP, "estimate", storing)
    now = run([tiny()])
    assert len(seen) >= 12 and not any(seen) and not any(entry.error for entry in now.entries.values())


@pytest.mark.slow
def test_a_baseline_is_timed_more_often(clean: Results) -> None:
    anew = run([tiny()], anew=True)
    assert all(anew.entries[key].rounds > entry.rounds for key, entry in clean.entries.items())


@pytest.mark.slow
def test_a_doubled_time_is_caught(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", half_as_fast)
    code, said = judged()
    assert code == 4 and "fail speed tiny/first/tracincp" in said and "quality" not in said


@pytest.mark.slow
def test_memory_that_is_held_is_caught(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", hoarding)
    code, said = judged()
    assert code == 4 and "fail memory tiny/first/tracincp" in said and "quality" not in said


@pytest.mark.slow
def test_numbers_that_differ_from_round_to_round_need_no_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", unsteady([]))
    findings = list(gates.on_their_own(run([tiny()])))
    assert gates.exit_code(findings) == 3 and "rounds with the same seed" in str(findings[0])


@pytest.mark.slow
def test_a_crash_in_one_estimator_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: TracInCP, run: Run) -> Influence:
        raise ConfigError("broken")

    monkeypatch.setattr(TracInCP, "estimate", broken)
    now = run([tiny(estimators={"tracincp": None, "random": None})])
    findings = list(gates.on_their_own(now))
    assert gates.exit_code(findings) == 1 and "broken" in str(findings[0])
    assert not now.entries["tiny/first/random"].error
