"""Build and query apart: estimates whose cost is known, and what stops one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.bench import bench, split
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


def test_build_and_query_are_parted_by_the_line_through_both_sizes() -> None:
    build, query = split.parts(TESTS, rounds_of(0.5 + 10 * 0.002), rounds_of(0.5 + 60 * 0.002, memory=9.0))
    assert (build.processor, build.wall, build.memory) == pytest.approx((0.5, 1.0, 5.0))
    assert (query.processor, query.wall, query.memory) == pytest.approx((2.0, 4.0, 9.0))


def test_times_that_shrink_with_test_instances_are_not_negative() -> None:
    build, query = split.parts(TESTS, rounds_of(0.5), rounds_of(0.4))
    assert build.processor == 0.5 and query.processor == query.wall == split.LEAST


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


@pytest.mark.parametrize(("part", "slower"), [("build", "build"), ("each", "query")])
def test_a_part_that_takes_twice_as_long_is_found_and_the_other_is_not(
    costs: dict[str, float], part: str, slower: str
) -> None:
    before = results()
    assert list(before.entries) == ["tiny/build/loo", "tiny/query/loo"]
    assert not list(against(results(), before))
    costs[part] *= 2
    (found,) = against(results(), before)
    assert (found.kind, found.level, found.where) == ("speed", "fail", f"tiny/{slower}/loo")


def test_what_stops_an_estimator_is_noted_with_both_parts(tmp_path: Path) -> None:
    asked = Split(estimator="nothing", tests=TESTS, settings=["dataset=iris", "dataset.n_train=20"])
    found = split.measure("tiny", asked, tmp_path, lambda: 0.01, lambda key, times: False)  # type: ignore[arg-type]
    assert list(found) == ["tiny/build/nothing", "tiny/query/nothing"]
    assert all("nothing" in entry.error for entry in found.values())


@pytest.mark.parametrize("tests", [[5], [5, 5], [9, 3], [0, 3]])
def test_two_sizes_are_needed_the_smaller_first(tests: list[int]) -> None:
    with pytest.raises(ConfigError, match="split: tests must be two numbers"):
        read("tiny", {"summary": "x", "split": [{"estimator": "loo", "tests": tests}]})
