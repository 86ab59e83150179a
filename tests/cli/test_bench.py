"""``influx bench``: files, exit codes and the baseline, with a suite of a moment."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from influx.bench import bench, machine, suites
from influx.bench.measures import Check, Entry, Results, Value
from influx.bench.suites import Suite, read
from tests.cli.conftest import Influx

PLACE = "iris/tracincp"
HERE = {"processor": "here"}


class Bench:
    """Stands in for the work: one entry per suite whose numbers the test sets."""

    value = 0.8
    passed = True
    runs = 0

    def suite(self, name: str) -> Suite:
        return read(name, {"summary": "a test", "problems": {}})

    def run(self, suites: Sequence[Suite], baseline: Results | None = None, anew: bool = False) -> Results:
        results = Results(machine=dict(HERE))
        self.runs += 1
        for suite in suites:
            value = Value(value=self.value, low=0.79, high=0.81, better="higher")
            sums = (1.0, 1.0, *([1.0] * 24))
            entry = Entry(
                values={"spearman": value}, prints={"values": sums}, processor=0.1, kernel=0.01, wall=0.1, memory=1.0
            )
            results.entries |= {f"{suite.name}/{PLACE}": entry, f"{suite.name}/iris/random": entry}
            check = Check(where=f"{suite.name}/iris", kind="quality", passed=self.passed, message="a must be above <b>")
            results.checks.append(check)
            results.suites[suite.name] = {"protocol": suite.protocol, "seconds": 1.0}
        return results


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The suites are ``tiny`` and ``other``."""
    found = Bench()
    monkeypatch.setattr(suites, "suite_names", lambda: ["other", "tiny"])
    monkeypatch.setattr(suites, "load", found.suite)
    monkeypatch.setattr(bench, "run", found.run)
    monkeypatch.setattr(machine, "machine", lambda: dict(HERE))
    return found


def test_a_benchmark_writes_its_files(
    influx: Influx, bound: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "shown.md"))
    (tmp_path / "shown.md").write_text("before\n")
    done = influx("bench", "--suite", "tiny", "--output", "out")
    assert done.code == 0, done.err
    assert "all gates passed; out/summary.md" in done.out
    results = json.loads(Path("out/results.json").read_text())
    assert set(results["entries"]) == {"tiny/iris/tracincp", "tiny/iris/random"}
    rows = list(csv.DictReader(Path("out/results.csv").read_text().splitlines()))
    assert [row["metric"] for row in rows] == ["spearman", "spearman"] and float(rows[0]["ratio"]) > 0
    cases = ElementTree.fromstring(Path("out/junit.xml").read_text()).findall("testsuite/testcase")
    assert len(cases) == 3 and not any(len(case) for case in cases)
    summary = Path("out/summary.md").read_text()
    assert "### tiny/iris" in summary and (tmp_path / "shown.md").read_text() == "before\n" + summary


def test_an_order_that_fails_exits_3_and_is_told_everywhere(influx: Influx, bound: Bench) -> None:
    bound.passed = False
    done = influx("bench", "--suite", "tiny", "--output", "out")
    said = "must be above"
    assert done.code == 3 and said in done.out
    assert said in Path("out/summary.md").read_text() and said in Path("out/junit.xml").read_text()
    failures = ElementTree.fromstring(Path("out/junit.xml").read_text()).findall(".//failure")
    assert [failure.get("type") for failure in failures] == ["quality"]
    refused = influx("bench", "--suite", "tiny", "--compare", "base.json", "--update-baseline", "--output", "out")
    assert refused.code == 3 and "the baseline stays as it was" in refused.out and not Path("base.json").exists()


def test_a_baseline_is_made_compared_updated_and_extended(influx: Influx, bound: Bench) -> None:
    arguments = ("bench", "--compare", "base.json", "--output", "out")
    assert influx(*arguments, "--suite", "tiny", "--update-baseline").code == 0
    bound.value = 0.7
    worse = influx(*arguments, "--suite", "tiny")
    assert worse.code == 3 and "quality fail: tiny/iris/tracincp: spearman was" in worse.out
    accepted = influx(*arguments, "--suite", "tiny", "--update-baseline")
    assert accepted.code == 0 and "spearman was" in accepted.out and "base.json updated" in accepted.out
    runs = bound.runs
    missing = influx(*arguments, "--suite", "other")
    assert bound.runs == runs and missing.code == 2 and "the baseline has no suite other" in missing.err
    assert influx(*arguments, "--suite", "other", "--update-baseline").code == 0
    assert list(json.loads(Path("base.json").read_text())["suites"]) == ["other", "tiny"]


def test_suites_of_two_machines_do_not_mix_in_one_baseline(influx: Influx, bound: Bench) -> None:
    arguments = ("bench", "--compare", "base.json", "--update-baseline", "--output", "out")
    assert influx(*arguments, "--suite", "tiny").code == 0
    base = json.loads(Path("base.json").read_text())
    base["machine"]["processor"] = "another"
    Path("base.json").write_text(json.dumps(base))
    before, bound.runs = Path("base.json").read_bytes(), 0
    refused = influx(*arguments, "--suite", "other")
    assert refused.code == 2 and "another machine" in refused.err and Path("base.json").read_bytes() == before
    assert bound.runs == 0


def test_a_summary_that_cannot_be_shown_changes_no_exit_code(
    influx: Influx, bound: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/where.md")
    bound.passed = False
    done = influx("bench", "--suite", "tiny", "--output", "out")
    assert (
        done.code == 3 and "must be above" in done.out and "warning: cannot append to GITHUB_STEP_SUMMARY" in done.out
    )


def test_a_test_case_fails_once_whatever_is_wrong_in_it(influx: Influx, bound: Bench) -> None:
    arguments = ("bench", "--compare", "base.json", "--suite", "tiny", "--output", "out")
    assert influx(*arguments, "--update-baseline").code == 0
    base = json.loads(Path("base.json").read_text())
    base["entries"]["tiny/iris/random"]["prints"]["values"][0] = 2.0
    base["entries"]["tiny/iris/random"]["memory"] = 0.0
    base["entries"]["tiny/iris/random"]["values"]["spearman"]["value"] = 0.9
    Path("base.json").write_text(json.dumps(base))
    bound.passed = False
    assert influx(*arguments).code == 3
    suite = ElementTree.fromstring(Path("out/junit.xml").read_text())[0]
    failed = {case.get("name"): len(case) for case in suite}
    assert failed == {"tiny/iris #1": 1, "tiny/iris/tracincp": 0, "tiny/iris/random": 1}
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    message = suite.find("testcase[@name='tiny/iris/random']/failure").get("message")
    assert "spearman was" in message and "the numbers moved" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "smokee"], "did you mean 'smoke'?"),
        (["--update-baseline"], "name it by --compare FILE"),
        (["--suite", "smoke", "--compare", "absent.json"], "make it by --update-baseline"),
        (["--suite", "smoke", "--compare", "no/where.json", "--update-baseline"], "in a folder that exists"),
        (["--suite", "smoke", "--output", "taken"], "--output taken is a file"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_refused_before_any_work(influx: Influx, arguments: list[str], said: str) -> None:
    Path("taken").write_text("")
    done = influx("bench", *arguments)
    assert done.code == 2 and said in done.err and done.out == ""
    assert [path.name for path in Path().iterdir()] == ["taken"]
