"""Bands, directions and levels of the gates."""

from __future__ import annotations

from typing import Any

import pytest

from influx.bench import gates
from influx.bench.measures import Check, Entry
from influx.errors import ConfigError
from tests.bench.conftest import MACHINE, Make


def found(made: Make, then: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f.level, f.kind) for f in gates.against(made(**now), made(**then))]


@pytest.mark.parametrize(
    ("better", "then", "now", "level"),
    [
        ("higher", 0.8, 0.71, None),  # half the interval of [0.7, 0.9] is 0.1
        ("higher", 0.8, 0.69, "fail"),
        ("higher", 0.8, 0.91, "note"),
        ("lower", 0.8, 0.91, "fail"),
        ("lower", 0.8, 0.69, "note"),
        ("one", 0.8, 1.2, None),
        ("one", 0.8, 0.65, "fail"),
        ("one", 0.8, 1.35, "fail"),
        ("one", 0.8, 0.95, "note"),
    ],
)
def test_a_metric_has_a_band_and_a_direction(made: Make, better: str, then: float, now: float, level: str) -> None:
    said = found(made, {"better": better, "value": then}, {"better": better, "value": now})
    assert said == ([(level, "quality")] if level else [])


def test_a_narrow_interval_leaves_a_smallest_band(made: Make) -> None:
    exact = {"low": 0.8, "high": 0.8}
    assert found(made, exact, {"value": 0.791}) == []
    assert found(made, exact, {"value": 0.789}) == [("fail", "quality")]
    assert found(made, {"low": float("nan"), "high": float("nan")}, {"value": 0.789}) == [("fail", "quality")]


@pytest.mark.parametrize(("then", "now", "level"), [("ok", "degenerate", "fail"), ("not applicable", "ok", "note")])
def test_a_lost_number_fails_and_a_new_one_is_told(made: Make, then: str, now: str, level: str) -> None:
    assert found(made, {"status": then}, {"status": now}) == [(level, "quality")]


def test_another_protocol_is_no_comparison(made: Make) -> None:
    assert found(made, {}, {"protocol": "p", "value": 0.8}) == []
    then, now = made(), made()
    value = now.entries["s/p/e"].values["spearman"]
    object.__setattr__(value, "protocol", "another")
    assert [f.level for f in gates.against(now, then)] == ["fail"]
    with pytest.raises(ConfigError, match="another one when the baseline was made"):
        gates.refuse_other({"s": "q"}, then)
    with pytest.raises(ConfigError, match="no suite t"):
        gates.refuse_other({"s": "p", "t": "p"}, then)


def test_numbers_that_moved_fail_although_the_metric_did_not(made: Make) -> None:
    sums = tuple([1.0, -1.0] * 12)
    for moved in ((1.0, 1.0, *([1.001, -1.001] * 12)), (1.001, 1.0, *sums), (1.0, 0.5, *sums)):
        assert found(made, {}, {"prints": {"values": moved}}) == [("fail", "quality")]
        assert found(made, {}, {"prints": {"stderr": moved}}) == [("fail", "quality")]  # came new
    assert found(made, {}, {"prints": {"values": (1.00001, 1.0, *sums)}}) == []
    there = {"machine": {**MACHINE, "processor": "b"}}
    assert found(made, there, {"prints": {"values": (1.2, 1.0, *sums)}}) == [("note", "run")]
    assert found(made, there, {"prints": {"values": (1.4, 1.0, *sums)}}) == [("note", "run"), ("fail", "quality")]


def test_a_share_of_finite_numbers_that_a_file_has_rounded_is_the_same(made: Make) -> None:
    sums = (1.0, -1.0) * 12
    then, now = {"values": (1.0, 0.3333333, *sums)}, {"values": (1.0, 1 / 3, *sums)}
    assert found(made, {"prints": then}, {"prints": now}) == []


def test_a_number_that_is_none_is_no_pass(made: Make) -> None:
    assert found(made, {}, {"value": float("nan")}) == [("fail", "quality")]


def test_a_baseline_that_compares_nothing_is_told(made: Make) -> None:
    then, now = made(), made()
    assert list(gates.uncompared(now, then)) == []
    then.entries["s/p/e"] = Entry(error="broken")
    assert [f.level for f in gates.against(now, then)] == ["warn"]
    assert [f.level for f in gates.uncompared(now, then)] == ["fail"]
    then.entries.clear()
    assert [f.level for f in gates.uncompared(now, then)] == ["fail"]


def test_a_problem_that_stopped_is_told_once(made: Make) -> None:
    then, now = made(), made()
    now.entries.clear()
    now.checks.append(Check(where="s/p", kind="run", passed=False, message="stopped with it"))
    assert list(gates.against(now, then)) == []
    assert gates.exit_code(list(gates.on_their_own(now))) == 1


@pytest.mark.parametrize(("processor", "said"), [(0.124, []), (0.13, ["warn"]), (0.149, ["warn"]), (0.16, ["fail"])])
def test_speed_is_the_ratio_to_the_kernel(made: Make, processor: float, said: list[str]) -> None:
    assert [level for level, _ in found(made, {}, {"processor": processor})] == said
    assert [level for level, _ in found(made, {}, {"processor": 3 * processor, "kernel": 0.03})] == said


def test_less_than_a_tick_is_too_little_to_count(made: Make) -> None:
    assert found(made, {"processor": 0.001}, {"processor": 0.003}) == []


@pytest.mark.parametrize(("memory", "said"), [(59.9, []), (60.1, ["fail"]), (float("nan"), [])])
def test_memory_has_a_band_of_a_share_and_some_mb(made: Make, memory: float, said: list[str]) -> None:
    assert [level for level, _ in found(made, {}, {"memory": memory})] == said


def test_another_machine_widens_bands_and_leaves_speed_and_memory_out(made: Make) -> None:
    there = {"machine": {**MACHINE, "processor": "b"}}
    slow = {"processor": 9.0, "memory": 900.0, "value": 0.65}
    findings = list(gates.against(made(**slow), made(**there)))
    assert [f.level for f in findings] == ["note"] and "processor b → a" in findings[0].message
    assert ("fail", "quality") in found(made, there, {"value": 0.55})


def test_another_commit_is_the_same_machine(made: Make) -> None:
    assert found(made, {"machine": {**MACHINE, "git": "y", "influx": "2"}}, {"processor": 0.2}) == [("fail", "speed")]


def test_what_is_gone_fails_and_what_is_new_is_told(made: Make) -> None:
    then, now = made(), made()
    now.entries["s/p/other"] = now.entries.pop("s/p/e")
    assert [(f.level, f.where) for f in gates.against(now, then)] == [("fail", "s/p/e"), ("note", "s/p/other")]


def test_the_worst_kind_sets_the_exit_code(made: Make) -> None:
    results = made()
    checks = {kind: Check(where="s/p", kind=kind, passed=False, message="m") for kind in ("memory", "speed", "quality")}
    assert gates.exit_code(list(gates.on_their_own(results))) == 0
    for kind, code in (("memory", 4), ("speed", 4), ("quality", 3)):
        results.checks.append(checks[kind])
        assert gates.exit_code(list(gates.on_their_own(results))) == code
    results.entries["s/p/e"] = Entry(error="broken")
    assert gates.exit_code(list(gates.on_their_own(results))) == 1


@pytest.mark.parametrize(("noise", "said"), [(1.0, "fail"), (1.08, "warn"), (2.0, "warn")])
def test_a_crowded_machine_needs_a_larger_slowdown_to_fail(made: Make, noise: float, said: str) -> None:
    assert [level for level, _ in found(made, {}, {"processor": 0.16, "noise": noise})] == [said]
    assert [level for level, _ in found(made, {}, {"processor": 0.2, "noise": noise})] == ["fail"]
