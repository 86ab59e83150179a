"""A bug put into an estimator is caught, with the right exit code; without one nothing is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from influx.bench import bench, gates, growth
from influx.bench.bench import run
from influx.bench.measures import Results
from influx.bench.suites import Growth
from influx.bench.trial import agree
from influx.errors import ConfigError
from influx.estimators.trajectory.tracincp import TracInCP
from influx.influence import Influence
from influx.run import Run
from tests.bench.conftest import tiny

right = TracInCP.estimate


def judged(clean: Results) -> tuple[int, str]:
    now = run([tiny()], clean)
    findings = [*gates.on_their_own(now), *gates.against(now, clean)]
    return gates.exit_code(findings), "\n".join(f"{f.level} {f.kind} {f}" for f in findings)


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


def thrice(self: TracInCP, run: Run) -> Influence:
    right(self, run)
    right(self, run)
    return right(self, run)


def test_nothing_wrong_is_found_where_nothing_is_wrong(clean: Results) -> None:
    code, said = judged(clean)
    assert (code, "fail" in said) == (0, False), said


def test_a_wrong_sign_is_caught(clean: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", wrong_sign)
    code, said = judged(clean)
    assert code == 3 and "tiny/first/tracincp: pearson was" in said and "the numbers moved by about" in said


def test_a_wrong_factor_is_caught_although_no_rank_changes(clean: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", wrong_factor)
    code, said = judged(clean)
    assert code == 3 and "the numbers moved by about" in said and "pearson" not in said


def test_a_wrong_self_influence_is_caught(clean: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", wrong_self)
    code, said = judged(clean)
    assert code == 3 and "tiny/first/tracincp: self_influence moved by about" in said and "the numbers" not in said


def test_rounds_agree_in_all_that_they_say() -> None:
    values, errors = np.ones((3, 2)), np.full((3, 2), 0.1)
    one = Influence(values=values, stderr=errors, self_influence=np.array([1.0, np.nan, 2.0]))
    assert agree(one, replace(one, values=values * (1 + 1e-7)))
    assert not agree(one, replace(one, stderr=-errors))
    assert not agree(one, replace(one, self_influence=np.array([1.0, np.nan, 2.1])))
    assert not agree(one, replace(one, self_influence=None))


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


def test_a_metric_that_the_problem_does_not_have_is_the_suites_mistake() -> None:
    with pytest.raises(ConfigError, match="no metric of tiny/first/random gives ldss"):
        run([tiny(estimators={"random": None}, values={"ldss": "higher"})])


def test_a_stale_cache_is_caught_on_the_second_problem_of_its_shape(
    clean: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TracInCP, "estimate", stale({}))
    code, said = judged(clean)
    assert code == 3 and "tiny/second/tracincp" in said and "fail quality tiny/first" not in said


@pytest.mark.slow
def test_a_slowdown_is_caught(clean: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracInCP, "estimate", thrice)
    code, said = judged(clean)
    assert code == 4 and "fail speed tiny/first/tracincp" in said and "quality" not in said


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
