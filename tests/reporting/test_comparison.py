"""The Pareto front and letters against their definitions, and a comparison on the page."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from influx.reporting import comparison_page, html
from influx.reporting.comparison import (
    Comparison,
    Difference,
    Entry,
    letter,
    letter_display,
    pareto_front,
    share_letter,
)
from influx.reporting.comparison_table import comparison_table
from influx.reporting.record import RunRecord
from influx.reporting.verdict import Score
from tests.reporting.conftest import write_run
from tests.reporting.test_html import parsed


@pytest.mark.parametrize("seed", range(20))
def test_front_holds_the_rows_that_nothing_dominates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, seconds = rng.integers(0, 4, 12).astype(float), rng.integers(1, 5, 12).astype(float)
    scores[0], seconds[1] = math.nan, math.nan

    def dominated(i: int) -> bool:
        others = [j for j in range(2, 12) if scores[j] >= scores[i] and seconds[j] <= seconds[i]]
        return any(scores[j] > scores[i] or seconds[j] < seconds[i] for j in others)

    assert pareto_front(scores, seconds) == [i > 1 and not dominated(i) for i in range(12)]


@pytest.mark.parametrize("seed", range(20))
def test_rows_share_a_letter_exactly_if_they_do_not_differ(seed: int) -> None:
    rng = np.random.default_rng(seed)
    different = np.triu(rng.random((9, 9)) < seed / 20, 1)
    different |= different.T
    shown = letter_display(different)
    for i in range(9):
        assert shown[i]
        for j in range(9):
            assert bool(set(shown[i]) & set(shown[j])) == (not different[i, j])


def test_letters_go_on_after_z() -> None:
    assert [letter(i) for i in (0, 25, 26, 53)] == ["a", "z", "a1", "b2"]


def test_letters_with_a_number_are_letters_of_their_own() -> None:
    assert share_letter("ba1", "a1") and share_letter("ab", "b") and not share_letter("a", "a1b1")


def test_rows_of_no_time_at_all_are_drawn() -> None:
    entry = comparison().entries[0]
    assert comparison_page._point(comparison(), replace(entry, seconds=0.0)) is not None
    assert comparison_page._point(comparison(), replace(entry, seconds=math.nan)) is None


def score(value: float) -> Score:
    return Score(value=value, low=value - 0.1, high=value + 0.1)


def comparison(title: str = "") -> Comparison:
    names = ("good <b>", "fair", "noise")
    entries = tuple(
        Entry(
            name=name,
            estimator=name,
            kind="run" if i < 2 else "baseline",
            run="toy" if i == 0 else "other",
            scores={"spearman": score(0.9 - 0.3 * i)},
            seconds=10.0 ** (1 - i),
            front=True,
            letters="ab"[i : i + 1],
        )
        for i, name in enumerate(names)
    )
    return Comparison(
        columns={"spearman": "agreement"},
        metric="spearman",
        lower_is_better=False,
        entries=entries,
        pairs={(0, 1): Difference(value=0.3, low=0.2, high=0.4, n=12)},
        references=(0,),
        title=title,
        protocol={"problem": f"number <i>{title}"},
        notes=("a note",),
        footnotes=(),
        commands={"toy": "influx run a", "other": "influx run 'b <script>'"},
    )


def test_the_fronts_of_two_models_are_two_lines() -> None:
    one = comparison()
    entries = tuple(e.of(model) for model in ("mlp", "cnn") for e in one.entries)
    page = str(comparison_page.comparisons([replace(one, entries=entries)], {}))
    lines = re.findall(r'<path d="([^"]*)" class="front"', page)
    assert [line.count("L") for line in lines] == [2, 2]  # three points each
    assert "no other row of its model has spearman" in page and "best first, model by model" in page


@pytest.fixture
def two(folder: object, record: RunRecord) -> list[RunRecord]:
    return [record, RunRecord.load(write_run(record.folder.parent.parent, "other"))]


def test_the_page_about_many_runs_holds_comparison_front_and_commands(two: list[RunRecord]) -> None:
    page = html.page(two, [comparison()])
    found = parsed(page)
    texts = " ".join(found.texts)
    for told in ("good <b>", "+0.300", "[0.200, 0.400]", "influx run 'b <script>'", "a note", "number <i>"):
        assert told in texts
    assert not found.all("b") and len(found.all("script")) == 1
    assert [a["href"] for a in found.all("a")] == ["#content", "#run-1", "#run-2"]
    assert len(found.all("circle")) == 3 and "must not be compared" not in texts


def test_the_page_can_be_sorted_and_read_aloud(two: list[RunRecord]) -> None:
    found = parsed(html.page(two, [comparison()]))
    assert sum(a.get("class") == "sortable" for a in found.all("table")) >= 3
    assert all(a.get("scope") in ("col", "row") for a in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table"))
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_protocols_that_differ_have_tables_of_their_own(two: list[RunRecord]) -> None:
    page = html.page(two, [comparison("model mlp"), comparison("model <b>")])
    found = parsed(page)
    texts = " ".join(found.texts)
    assert "must not be compared" in texts and "Protocol 1: model mlp" in texts and "Protocol 2: model <b>" in texts
    assert {"#protocol-1", "#protocol-2"} <= {a["href"] for a in found.all("a")}
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids)) and {"protocol-1", "protocol-2", "pareto-2-title"} <= set(ids)
    named = [a["aria-label"] for a in found.all("div") if a.get("aria-label", "").startswith("Estimators, best")]
    assert len(named) == len(set(named)) == 2 and texts.count("good <b>") >= 2


def test_what_holds_for_all_protocols_is_said_once_below_their_tables() -> None:
    stream = io.StringIO()
    Console(file=stream, width=150).print(comparison_table([comparison("model mlp"), comparison("model <b>")]))
    shown = stream.getvalue()
    assert shown.count("a note") == shown.count("Pareto front") == shown.count("do not answer the same question") == 1
    assert shown.index("number <i>model mlp") < shown.index("Protocol 2: model <b>") < shown.index("a note")
