"""The numbers of one run as HTML: verdict, costs, all metrics, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from influx.reporting import text as words
from influx.reporting.ceilings import Ceiling, beside, best
from influx.reporting.markup import Markup, escaped, join, tag, text
from influx.reporting.reading import Ends
from influx.reporting.record import END_ROWS, RunRecord
from influx.reporting.text import clean
from influx.reporting.verdict import Row, Score, Verdict, verdict_of


def table(
    caption: str, headings: Sequence[tuple[str, str]], rows: Sequence[Markup], *, sortable: bool = False
) -> Markup:
    """A table that scrolls sideways where it must; ``headings`` are (text, class). ``sortable`` for the script."""
    cells = [text("th", name, scope="col", class_=kind or None) for name, kind in headings]
    parts = (
        text("caption", caption),
        tag("thead", tag("tr", *cells)),
        tag("tbody", join(*rows)),
    )
    made = tag("table", *parts, class_="sortable" if sortable else None)
    return tag("div", made, class_="scroll", role="region", tabindex=0, aria_label=caption)


def bullets(items: Sequence[str]) -> Markup:
    """A list of sentences."""
    return tag("ul", *(text("li", item) for item in items))


def definitions(items: Sequence[tuple[str, str]]) -> Markup:
    """Names and their explanations."""
    return tag("dl", *(Markup(text("dt", name) + text("dd", value)) for name, value in items))


def verdict(record: RunRecord) -> Markup:
    """The verdict: estimator and baselines, detection, footnotes, and what to read them with."""
    v = verdict_of(record)
    headings = [("estimator", ""), *((heading, "") for heading in v.columns.values())]
    headings += [("seconds", "number"), ("peak MB", "number"), ("trainings", "number")]
    rows = [_verdict_row(row, list(v.columns), costs=True) for row in v.rows]
    caption = f"{record.estimator} and the baselines, with 95% confidence intervals"
    return tag(
        "section",
        text("h2", "Verdict"),
        table(caption, headings, rows),
        _detection(v) if v.detection else Markup(""),
        _bounded(v) if v.bounded else Markup(""),
        definitions([(f"({mark})", reason) for mark, reason in v.footnotes]) if v.footnotes else Markup(""),
        definitions(v.lines),
    )


def _detection(v: Verdict) -> Markup:
    headings = [("estimator", ""), *((heading, "") for heading in v.detection.values())]
    rows = [_verdict_row(row, list(v.detection), costs=False) for row in v.detection_rows]
    told = "How well the instances looked for are ranked above the others"
    if any("(s" in heading for heading in v.detection.values()):
        told += ", by self-influence (self) or by influence summed over tests (sum)"
    return join(text("h3", "Detection"), table(told, headings, rows))


def _bounded(v: Verdict) -> Markup:
    rows = []
    for b in v.bounded:
        cells = text("td", b.value, class_="number"), text("td", b.interval, class_="ci"), ceiling_cell(b.ceiling)
        rows.append(tag("tr", text("th", b.metric, scope="row"), *cells))
    headings = [("metric", ""), ("value", "number"), ("95% interval", ""), ("ceiling", "")]
    return join(text("h3", "Further metrics and their ceilings"), table("Of the run's estimator", headings, rows))


def _verdict_row(row: Row, columns: Sequence[str], *, costs: bool) -> Markup:
    cells = [text("th", row.name, scope="row"), *(score_cell(row.scores.get(key)) for key in columns)]
    if costs:
        cells += [text("td", value, class_="number") for value in (row.seconds, row.peak_mb, row.trainings)]
    return tag("tr", *cells, class_=None if row.baseline else "own")


def score_cell(score: Score | None) -> Markup:
    """A cell with a number and its interval, a word, or a dash."""
    if score is None:
        return tag("td", escaped("-"))
    return text("td", score.main, class_="word") if score.word else _number(score.main, score.interval)


def ceiling_cell(ceiling: Ceiling | None, otherwise: str = "") -> Markup:
    """A cell with the ceiling of a number, or with something else, or a dash."""
    return tag("td", escaped(otherwise or "-")) if ceiling is None else _number(ceiling.value, ceiling.interval)


def _number(value: str, interval: str) -> Markup:
    spread = Markup(" " + text("span", interval, class_="ci")) if interval else Markup("")
    return tag("td", escaped(value), spread)


def warnings(record: RunRecord) -> Markup:
    """What the run warned about, or nothing."""
    found = record.sentences("warnings")
    if not found:
        return Markup("")
    return tag("section", text("h3", "Warnings"), bullets(found), class_="warnings", aria_label="Warnings")


def cost(record: RunRecord) -> Markup:
    """Seconds and memory of every stage."""
    stages = {name: s for name, s in record.section("stages").items() if isinstance(s, Mapping)}
    if not stages:
        return Markup("")
    longest = max((_seconds(s) for s in stages.values()), default=0.0) or 1.0
    rows = []
    for name, stage in stages.items():
        bar = tag("span", class_="share", style=f"width:{100 * _seconds(stage) / longest:.1f}%")
        cells = (
            text("td", words.seconds(stage.get("seconds")), class_="number"),
            text("td", words.count(stage.get("peak_mb")), class_="number"),
            text("td", "from an earlier run" if stage.get("cached") else "computed"),
            tag("td", bar, class_="bar", aria_hidden="true"),
        )
        rows.append(tag("tr", text("th", name, scope="row"), *cells))
    headings = [("stage", ""), ("seconds", "number"), ("peak MB", "number"), ("result", ""), ("share of time", "")]
    return tag("section", text("h2", "Cost"), table("Time and memory by stage", headings, rows))


def _seconds(stage: Mapping[str, Any]) -> float:
    value = words.number(stage.get("seconds"))
    return value if value > 0 else 0.0


def metrics(record: RunRecord) -> Markup:
    """Every number with its protocol."""
    rows, listed = [], record.metric_rows
    for row, ceiling in zip(listed, beside(listed), strict=True):
        spread = words.interval(float(row["ci_low"]), float(row["ci_high"]))
        value = words.score(float(row["value"])) if row["status"] == "ok" else str(row["status"])
        metric, note = (text("td", row[name]) for name in ("metric", "note"))
        protocol = text("td", row["protocol"], class_="told")
        numbers = (
            text("td", value),
            text("td", spread, class_="ci"),
            ceiling_cell(ceiling, best(str(row["metric"]))),
            text("td", words.count(row["n"]), class_="number"),
        )
        rows.append(tag("tr", text("th", row["estimator"], scope="row"), metric, *numbers, protocol, note))
    headings = [(name, "") for name in ("estimator", "metric", "value", "95% interval", "ceiling")]
    headings += [("n", "number"), ("protocol", ""), ("note", "")]
    return details("All metrics", table("Every number with its protocol", headings, rows, sortable=True))


def reproduce(record: RunRecord) -> Markup:
    """The command, the versions, the resolved config."""
    command = tag("pre", text("code", record.command or "not recorded"), class_="command")
    versions = [(str(k), str(v)) for k, v in sorted(record.section("versions").items())]
    problem = str(record.section("problem").get("id", ""))
    facts = [("problem", problem)] if problem else []
    return tag(
        "section",
        text("h2", "Reproduce"),
        command,
        definitions(facts) if facts else Markup(""),
        metrics(record),
        details("Resolved config", tag("pre", text("code", record.config_text))),
        details("Versions", definitions(versions)) if versions else Markup(""),
    )


def notes(record: RunRecord) -> Markup:
    """What was done to the data and other remarks."""
    found = record.sentences("notes")
    return tag("section", text("h2", "Notes"), bullets(found)) if found else Markup("")


def perspective(record: RunRecord) -> Markup:
    """What was asked for, where that is not the matrix itself."""
    found = record.tables.get("perspective")
    if found is None:
        return Markup("")
    title = f"Perspective: {record.choice('perspective').replace('_', ' ')}"
    return tag("section", text("h2", title), text("p", record.perspective_note), frame("perspective", found))


def tables(record: RunRecord) -> Markup:
    """Further results of the estimator, to open."""
    found = {name: ends for name, ends in record.tables.items() if name != "perspective"}
    if not found:
        return Markup("")
    parts = [
        details(f"{name.replace('_', ' ')} ({ends.rows:,} rows)", frame(name, ends)) for name, ends in found.items()
    ]
    return tag("section", text("h2", "Further results"), *parts)


def frame(name: str, ends: Ends) -> Markup:
    """The first and last rows of a table; all of them are in the run's folder."""
    shown = ends.frame
    numeric = [shown[column].dtype.kind in "fiu" for column in shown.columns]
    headings = [(str(c).replace("_", " "), "number" if n else "") for c, n in zip(shown.columns, numeric, strict=True)]
    rows = []
    for values in shown.itertuples(index=False, name=None):
        cells = [text("td", _shown(v), class_="number" if n else None) for v, n in zip(values, numeric, strict=True)]
        rows.append(tag("tr", *cells))
    caption = f"{name}.parquet" if ends.whole else f"{name}.parquet: first and last {END_ROWS} of {ends.rows:,} rows"
    return table(caption, headings, rows, sortable=len(rows) > 1)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return ("yes" if value else "no") if isinstance(value, bool) else clean(value)


def details(summary: str, content: Markup) -> Markup:
    """Something to open."""
    return tag("details", text("summary", summary), content)
