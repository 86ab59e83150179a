"""Fingerprints, orders, slopes, rounds and suites, each on its own."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from influx.bench import anchors, growth, orders
from influx.bench.baseline import load
from influx.bench.clock import Kernel, Rounds
from influx.bench.fingerprint import change, fingerprint
from influx.bench.measures import Entry, Results, Value, save
from influx.bench.suites import Order, Trials, read, suite_names
from influx.bench.suites import load as load_suite
from influx.bench.trial import estimators, job_of
from influx.config import choices_of
from influx.errors import ConfigError, DataError
from tests.bench.conftest import Make

SUITES = ("convex", "deep", "detect", "exact", "scaling", "smoke", "valuation")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
@pytest.mark.parametrize("relative", [1e-3, 0.1, 1.0, 2.0])
def test_a_fingerprint_tells_how_far_a_matrix_moved(scale: float, relative: float) -> None:
    rng = np.random.default_rng(0)
    then, step = rng.normal(size=(2, 50, 20)) * scale
    estimates = [change(fingerprint(then), fingerprint(then + relative * step * s)) for s in (1.0, -1.0)]
    expected = relative * np.linalg.norm(step) / np.linalg.norm(then)
    assert estimates == pytest.approx([expected, expected], rel=0.6)  # two standard errors at 24 directions
    assert change(fingerprint(then), fingerprint(-then)) == pytest.approx(2.0, rel=0.6)
    assert change(fingerprint(then), fingerprint(then)) == 0.0
    factor = fingerprint((1 + relative) * then)
    assert change(fingerprint(then), factor) >= relative * (1 - 1e-9)  # never less, unlike random sums


def test_a_fingerprint_sees_missing_values_and_zeros() -> None:
    values = np.ones((4, 3))
    part = np.where(np.eye(4, 3) > 0, np.nan, values)
    assert change(fingerprint(values), fingerprint(part)) == math.inf
    assert change(fingerprint(np.zeros((4, 3))), fingerprint(values)) == math.inf
    assert change(fingerprint(np.zeros((4, 3))), fingerprint(np.zeros((4, 3)))) == 0.0


def entry(value: float) -> Entry:
    return Entry(values={"lds": Value(value=value, low=value - 0.1, high=value + 0.1, better="higher")})


def test_an_order_is_a_chain_with_a_gap() -> None:
    trials = Trials(settings=[], orders=[Order(metric="lds", order=["a", "b", "c"], gap=0.1)])
    entries = {"a": entry(0.9), "b": entry(0.7), "c": entry(0.65)}
    assert [check.passed for check in orders.checks("s/p", trials, entries)] == [True, False]
    entries["a"] = Entry(error="broken")
    assert [check.passed for check in orders.checks("s/p", trials, entries)] == [False, False]


def test_a_bound_holds_on_both_sides_and_never_for_nan() -> None:
    trials = Trials(settings=[], orders=[Order(metric="lds", of="a", at_least=0.5, at_most=0.8)])
    passed = [next(orders.checks("s/p", trials, {"a": entry(v)})).passed for v in (0.4, 0.6, 0.9, math.nan)]
    assert passed == [False, True, False, False]


def test_an_order_of_what_was_not_measured_is_refused() -> None:
    for order in (Order(metric="lds", order=["a", "zz"]), Order(metric="zz", of="a")):
        with pytest.raises(ConfigError, match="names zz, which is not among"):
            list(orders.checks("s/p", Trials(settings=[], orders=[order]), {"a": entry(0.5)}))


class Scripted(Kernel):
    """A kernel of constant time."""

    def __init__(self) -> None: ...

    def __call__(self) -> float:
        return 0.01


def rounds_of(times: list[float]) -> Rounds[int]:
    """Rounds whose processor seconds are as given."""
    rounds = Rounds(make=lambda: 1, same=int.__eq__, kernel=Scripted())
    once = rounds.once

    def scripted() -> None:
        rounds.processor, before = math.inf, rounds.processor
        once()
        rounds.processor = min(before, times[rounds.count - 1])
        rounds.spent = sum(times[: rounds.count])

    rounds.once = scripted  # type: ignore[method-assign]
    return rounds


def test_what_looks_slow_is_measured_again_until_it_does_not() -> None:
    rounds = rounds_of([0.3, 0.3, 0.3, 0.3, 0.1, 0.1, 0.1])
    rounds.go(lambda found: found.processor > 0.2)
    assert (rounds.count, rounds.processor) == (5, 0.1)


def test_a_slope_is_that_of_a_power_law() -> None:
    sizes = [100, 200, 400]
    found = []
    for size in sizes:
        rounds = rounds_of([1e-6 * size**2])
        rounds.once()
        found.append(rounds)
    assert growth.slope(sizes, found) == pytest.approx(2.0)  # type: ignore[arg-type]


def test_the_suites_are_those_that_the_help_names_and_all_can_be_read() -> None:
    assert tuple(suite_names()) == SUITES
    for name in SUITES:
        suite = load_suite(name)
        assert suite.problems or suite.growth or suite.oracles
        for trials in suite.problems.values():
            for order in trials.orders:
                assert order.metric in trials.values


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"summary": "x", "problem": {}}, "problem is unknown (did you mean 'problems'?)"),
        ({"problems": {}}, "summary must be given"),
        ({"summary": "x", "problems": {"p": {"settings": [], "values": {"lds": "up"}}}}, "lds must be one of higher"),
        ({"summary": "x", "problems": {"p": {"estimators": {}}}}, "settings"),
        ({"summary": "x", "growth": [{"estimator": "loo", "steps": 3}]}, "steps is unknown"),
    ],
)
def test_a_suite_with_a_mistake_is_refused(node: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read("mine", node)
    assert said in str(refused.value)


def test_results_come_back_as_they_were_saved(made: Make, tmp_path: Path) -> None:
    results = made(memory=float("nan"), low=float("nan"))
    save(results, tmp_path / "r.json")
    back = load(tmp_path / "r.json")
    assert back.text() == results.text() and back.plain() == results.plain()
    assert math.isnan(back.entries["s/p/e"].memory) and back.entries["s/p/e"].prints == results.entries["s/p/e"].prints
    assert "/tmp" not in results.text()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1, "machine": 3}'])
def test_what_is_no_baseline_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=r"r\.json"):
        load(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("suites", "s"), {}),
        (("suites", "s"), 3),
        (("suites",), {}),
        (("entries", "s/p/e", "kernel"), 0),
        (("entries", "s/p/e", "kernel"), None),
        (("entries", "s/p/e", "processor"), 0),
        (("entries", "s/p/e", "processor"), "0.1"),
        (("entries", "s/p/e", "processor"), None),
        (("entries", "s/p/e", "noise"), True),
        (("entries", "s/p/e", "memory"), -1),
        (("entries", "s/p/e", "values", "spearman", "value"), None),
        (("entries", "s/p/e", "values", "spearman", "value"), "0.8"),
        (("entries", "s/p/e", "values", "spearman", "low"), "0.7"),
        (("entries", "s/p/e", "values", "spearman", "better"), "hihger"),
        (("entries", "s/p/e", "prints"), {}),
        (("entries", "s/p/e", "prints"), [1]),
        (("entries", "s/p/e", "prints", "values", 0), math.inf),
        (("entries", "s/p/e", "prints", "values", 3), "1"),
        (("checks",), [3]),
        (("machine", "torch"), [2]),
    ],
)
def test_a_damaged_baseline_is_refused(made: Make, tmp_path: Path, place: tuple[str | int, ...], value: object) -> None:
    plain = json.loads(made().text())
    node = plain
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    (tmp_path / "r.json").write_text(json.dumps(plain))
    with pytest.raises(DataError, match=r"r\.json"):
        load(tmp_path / "r.json")


def test_a_baseline_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"r\.json"):
        load(tmp_path / "r.json")


@pytest.mark.parametrize("length", [3.9, 4.1, 7.95, 8.05, 15.9, 16.1])
def test_the_kernel_beside_an_estimate_does_not_jump_with_its_length(length: float) -> None:
    times = [0.01, 0.0168, 0.0168]
    near = [
        Rounds(make=int, same=int.__eq__, kernel=Scripted(), processor=0.01 * x, kernel_times=times).kernel_time
        for x in (length, 1.03 * length)
    ]
    assert 0.01 <= near[0] <= near[1] <= min(1.02 * near[0], 0.0168)


def test_every_estimator_works_on_two_problems_of_one_shape_in_smoke(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for trials in load_suite("smoke").problems.values():
        counts.update(estimators_of(trials, tmp_path) if trials.every else list(trials.estimators))
    assert sorted(counts) == choices_of("estimator")
    assert min(counts.values()) >= 2


def estimators_of(trials: Trials, outputs: Path) -> list[str]:
    job = job_of(list(trials.settings), outputs)
    return [name for name, one in estimators(trials, job) if not isinstance(one, Entry | str)]


def test_every_anchor_has_a_source_and_is_measured_by_a_suite() -> None:
    for anchor in anchors.load():
        suite, problem, name = anchor.ours.split("/")
        trials = load_suite(suite).problems[problem]
        assert name in trials.estimators and anchor.metric in trials.values
        assert anchor.source and anchor.protocol and anchor.differs


def test_anchors_are_shown_only_beside_what_was_measured(made: Make) -> None:
    given = dict.fromkeys(("what", "protocol", "source", "differs"), "text")
    known = anchors.Anchor(published=0.5, ours="s/p/e", metric="spearman", **given)
    other = anchors.Anchor(published=0.25, ours="s/p/zz", metric="spearman", **given)
    lines = "\n".join(anchors.table([known, other], made()))
    assert "| 0.5 | 0.800 |" in lines and "0.25" not in lines
    assert list(anchors.table([other], made())) == []


def test_results_hold_one_line_per_entry(made: Make) -> None:
    text = made().text()
    assert json.loads(text)["entries"] and sum('"s/p/e"' in line for line in text.splitlines()) == 1


def test_no_results_are_no_results() -> None:
    assert json.loads(Results(machine={}).text())["entries"] == {}
