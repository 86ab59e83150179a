"""Build and query apart: estimates whose cost is known, and what stops one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.bench import bench, split
from influx.bench.artefacts import summary
from influx.bench.clock import Rounds
from influx.bench.gates import against
from influx.bench.measures import Results
from influx.bench.suites import Split, read
from influx.bench.trial import agree
from influx.errors import ConfigError
from influx.influence import Influence

TESTS = (10, 60)


def rounds_of(seconds: float, memory: float = 5.0, kernel: float = 0.01) -> Rounds[Influence]:
    """Finished rounds, the fastest of which took so long; more of them change nothing."""
    made: Rounds[Influence] = Rounds(make=lambda: Influence(values=np.eye(3)), same=agree, kernel=lambda: kernel)
    made.once()
    made.processor, made.wall, made.memory = seconds, 2 * seconds, memory
    made.kernel_times[:] = [kernel, kernel]
    made.count = 99
    made.once = lambda: None  # type: ignore[method-assign]
    return made


def test_build_and_query_are_told_by_the_line_through_both_sizes() -> None:
    asked = Split(estimator="loo", tests=TESTS)
    told = split.parts(asked, rounds_of(0.5 + 10 * 0.002), rounds_of(0.5 + 60 * 0.002))
    assert told == "build 0.5 s, query 2 ms for each test instance; 10: 0.52 s, 60: 0.62 s (gated by nothing)"
    for few, many in ((0.5, 0.4), (0.1, 0.7)):
        assert "cannot be told from noise" in split.parts(asked, rounds_of(few), rounds_of(many))


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds of build and of each query, for every estimator; may be changed."""
    known = {"build": 0.5, "each": 0.002}

    def made(name: str, vary: str, size: int, *rest: Any) -> Rounds[Influence]:
        assert vary == "dataset.n_test"
        return rounds_of(known["build"] + known["each"] * size)

    monkeypatch.setattr(split, "rounds_of", made)
    return known


def results() -> Results:
    return bench.run([read("tiny", {"summary": "x", "split": [{"estimator": "loo", "tests": list(TESTS)}]})])


def test_both_sizes_are_gated_like_other_entries_and_their_difference_is_not(costs: dict[str, float]) -> None:
    before = results()
    assert list(before.entries) == ["tiny/10_tests/loo", "tiny/60_tests/loo"]
    assert [(check.where, check.passed) for check in before.checks] == [("tiny/build_query/loo", True)]
    assert before.checks[0].message in summary(before, [], 0, [])
    costs["each"] *= 2
    assert not list(against(results(), before))  # 60 take 1.19 times as long
    costs["each"] *= 2
    (found,) = against(results(), before)
    assert (found.kind, found.level, found.where) == ("speed", "fail", "tiny/60_tests/loo")
    costs.update(build=1.0, each=0.002)
    assert len(list(against(results(), before))) == 2


def test_a_query_that_was_nothing_raises_no_alarm(costs: dict[str, float]) -> None:
    costs["each"] = 0.0
    before = results()
    costs["each"] = 1e-5  # 10 ms for 1,000
    assert not list(against(results(), before))


def test_both_sizes_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def made(name: str, vary: str, size: int, *rest: Any) -> Rounds[Influence]:
        def estimate() -> Influence:
            asked.append(size)
            return Influence(values=np.eye(3))

        return Rounds(make=estimate, same=agree, kernel=lambda: 0.01)  # type: ignore[arg-type]

    monkeypatch.setattr(split, "rounds_of", made)
    results()
    assert asked == [*TESTS] * (3 * split.ROUNDS)


def test_what_stops_an_estimator_is_noted_with_both_parts(tmp_path: Path) -> None:
    asked = Split(estimator="nothing", tests=TESTS, settings=["dataset=iris", "dataset.n_train=20"])
    found, told = split.measure("tiny", asked, tmp_path, lambda: 0.01, lambda key, times: False)  # type: ignore[arg-type]
    assert list(found) == ["tiny/10_tests/nothing", "tiny/60_tests/nothing"] and not told
    assert all("nothing" in entry.error for entry in found.values())


@pytest.mark.parametrize("tests", [[5], [5, 5], [9, 3], [0, 3]])
def test_two_sizes_are_needed_the_smaller_first(tests: list[int]) -> None:
    with pytest.raises(ConfigError, match="split: tests must be two numbers"):
        read("tiny", {"summary": "x", "split": [{"estimator": "loo", "tests": tests}]})
